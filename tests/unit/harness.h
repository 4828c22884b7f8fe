/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A vCPU without a machine, for tests of the CPU: 4 MiB of RAM at guest-physical 0, flat segments and, in
 * 64-bit mode, identity page tables of 2 MiB pages; registers zero. Tests put code and data into it, run n
 * instructions on the interpreter (or any engine) and look at *h.v.
 *
 *	0x1000-0x5fff  page tables, GDT, IDT        0x8000  stack top
 *	0x10000        HARNESS_CODE                 0x20000 HARNESS_DATA
 */
#ifndef GUISE_TESTS_HARNESS_H
#define GUISE_TESTS_HARNESS_H

#include "softkvm/engine.h"
#include "softkvm/mmu/mmu.h"
#include "softkvm/vm.h"

enum {
	HARNESS_RAM = 4 << 20, HARNESS_TABLES = 0x1000, HARNESS_GDT = 0x5000, HARNESS_IDT = 0x6000,
	HARNESS_STACK = 0x8000, HARNESS_CODE = 0x10000, HARNESS_DATA = 0x20000
};

enum harness_mode {
	HARNESS_REAL,
	HARNESS_PROTECTED16,
	HARNESS_PROTECTED32,
	HARNESS_LONG64,
	HARNESS_COMPAT32
};

struct harness {
	struct vm vm;
	struct vcpu *v;
	volatile bool stop; /* harness_run_to_halt() returns HARNESS_EXIT: for a signal handler, with vcpu_call_out() */
	uint8_t *ram;
	uint32_t features[8];
};

/* 0/-errno. The mode's registers are those of harness_reset(). */
int harness_new(struct harness *h, enum harness_mode mode);
/* The same on another engine. */
int harness_new_on(struct harness *h, enum harness_mode mode, const struct engine *engine);
void harness_free(struct harness *h);
/*
 * Power-on-like registers for the mode: flat segments, CPL 0, RIP at HARNESS_CODE, RSP at HARNESS_STACK,
 * RFLAGS 2. RAM is kept.
 */
void harness_reset(struct harness *h, enum harness_mode mode);
/* Go to CPL 3 with flat segments (protected and long modes). */
void harness_user(struct harness *h);
/* Put code at HARNESS_CODE. */
void harness_code(struct harness *h, const void *code, unsigned size);

enum { HARNESS_OK = -1, HARNESS_EXIT = -2 };
/*
 * Execute n instructions. HARNESS_OK; the vector of the exception that one of them raised (v->exception_*
 * tell more; it is not delivered, RIP is at the instruction); HARNESS_EXIT: it left for the user (v->run).
 */
int harness_run(struct harness *h, unsigned n);
/* Run until HLT; results as above. */
int harness_run_to_halt(struct harness *h);
/* Code, then run its instructions. */
int harness_do(struct harness *h, const void *code, unsigned size, unsigned n);

struct xsave_area; /* softkvm/fpu.h */
/* One form for vector states that mean the same: unused components initial, no pointers. */
void harness_normalize(struct xsave_area *x);

#define CODE(...) (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__})

#endif
