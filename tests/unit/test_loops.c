/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Endless loops of every kind in translated code. Whoever asks a vCPU to come out (interrupts, other vCPUs, the user) only
 * calls vcpu_call_out(), so every loop has to look somewhere: at a jump backward, at an entry, in a handler. A timer asks at
 * random times; a loop that goes on for seconds afterwards fails the test.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "harness.h"
#include "softkvm/translate/translate.h"

enum { STOPS = 8, LATEST_US = 400, AGAIN_US = 10000, PATIENCE = 500 };
enum { FAR_APART = 16 << 20, FAR_GPA = 2 << 20, CODE_FAR = HARNESS_CODE + FAR_APART, NEXT_PAGE = HARNESS_CODE + 4096 };

/* Up to two pieces of code; `other` is a linear address. FAR_APART and the 2 MiB from there on are RAM from FAR_GPA on. */
struct loop {
	const char *name;
	enum harness_mode mode;
	const char *code;
	unsigned size;
	uint32_t start; /* RIP; 0: HARNESS_CODE, or its segment's start */
	uint32_t other;
	const char *other_code;
	unsigned other_size;
};
#define BYTES(text) text, sizeof(text) - 1

static const struct loop loops[] = {
	{"jmp to itself", HARNESS_LONG64, BYTES("\xeb\xfe"), 0, 0, NULL, 0},
	{"jmp over bytes and back", HARNESS_LONG64, BYTES("\xeb\x02\x90\x90\xeb\xfa"), 0, 0, NULL, 0},
	{"cmp byte [rbx],1; jne", HARNESS_LONG64, BYTES("\x80\x3b\x01\x75\xfb"), 0, 0, NULL, 0},
	{"cmp byte [rbx],1; jne from further on", HARNESS_LONG64, BYTES("\x90\x80\x3b\x01\x75\xfa"), HARNESS_CODE + 1, 0, NULL, 0},
	{"push; pop; je forward; jmp", HARNESS_LONG64, BYTES("\x50\x58\x74\x00\xeb\xfa"), 0, 0, NULL, 0},
	{"test; je back out of the middle", HARNESS_LONG64, BYTES("\x50\x85\xff\x58\x74\xfa\xf4"), 0, 0, NULL, 0},
	{"inc ecx; loop", HARNESS_LONG64, BYTES("\xff\xc1\xe2\xfc"), 0, 0, NULL, 0},
	{"xor ecx,ecx; jrcxz to itself", HARNESS_LONG64, BYTES("\x31\xc9\xe3\xfe"), 0, 0, NULL, 0},
	{"call; jmp; ret", HARNESS_LONG64, BYTES("\xe8\x02\x00\x00\x00\xeb\xf9\xc3"), 0, 0, NULL, 0},
	{"lea rax,[itself]; jmp rax", HARNESS_LONG64, BYTES("\x48\x8d\x05\xf9\xff\xff\xff\xff\xe0"), 0, 0, NULL, 0},
	{"pause; jmp", HARNESS_LONG64, BYTES("\xf3\x90\xeb\xfc"), 0, 0, NULL, 0},
	{"pushf; cli; popf; jmp", HARNESS_LONG64, BYTES("\x9c\xfa\x9d\xeb\xfb"), 0, 0, NULL, 0},
	{"cpuid; jmp", HARNESS_LONG64, BYTES("\x0f\xa2\xeb\xfc"), 0, 0, NULL, 0},
	{"mov ecx,500; rep stosb; jmp", HARNESS_LONG64, BYTES("\xb9\xf4\x01\x00\x00\x48\x89\xdf\xf3\xaa\xeb\xf4"), 0, 0, NULL, 0},
	{"mov rax,[rbp]; mov rdx,[rbp+8], a page's end between", HARNESS_LONG64, BYTES("\x48\x8b\x45\x00\x48\x8b\x55\x08\xeb\xf6"), 0, 0,
	 NULL, 0},
	{"code that writes to itself", HARNESS_LONG64, BYTES("\xc6\x05\x01\x00\x00\x00\x12\xb0\x00\xeb\xf5"), 0, 0, NULL, 0},
	{"ud2; its handler returns", HARNESS_LONG64, BYTES("\x0f\x0b"), 0, 0, NULL, 0},
	{"int 6; jmp", HARNESS_LONG64, BYTES("\xcd\x06\xeb\xfc"), 0, 0, NULL, 0},
	{"two pages", HARNESS_LONG64, BYTES("\xe9\xfb\x0f\x00\x00"), 0, NEXT_PAGE, BYTES("\xe9\xfb\xef\xff\xff")},
	{"two pages, an instruction on both", HARNESS_LONG64, BYTES("\xf4"), NEXT_PAGE - 2, NEXT_PAGE - 2, BYTES("\x48\x83\xc0\x01\xeb\xfa")},
	{"two pages 16 MiB apart", HARNESS_LONG64, BYTES("\xe9\xfb\xff\xff\x00"), 0, CODE_FAR, BYTES("\xe9\xfb\xff\xff\xfe")},
	{"two pages 16 MiB apart, jcc", HARNESS_LONG64, BYTES("\x85\xff\x0f\x84\xf8\xff\xff\x00\xf4"), 0, CODE_FAR,
	 BYTES("\x85\xff\x0f\x84\xf8\xff\xff\xfe\xf4")},
	{"two pages 16 MiB apart, call and ret", HARNESS_LONG64, BYTES("\xe8\x00\x00\x00\x01\xeb\xf9"), 0, CODE_FAR + 5, BYTES("\xc3")},
	{"32 bits: two pages 16 MiB apart", HARNESS_COMPAT32, BYTES("\xe9\xfb\xff\xff\x00"), 0, CODE_FAR, BYTES("\xe9\xfb\xff\xff\xfe")},
	{"32 bits: inc cx; loopw", HARNESS_COMPAT32, BYTES("\x66\x41\x67\xe2\xfb"), 0, 0, NULL, 0},
	{"32 bits: mov es,ax; jmp", HARNESS_COMPAT32, BYTES("\x8c\xd8\x8e\xc0\xeb\xfa"), 0, 0, NULL, 0},
	{"16 bits: jmp to itself", HARNESS_REAL, BYTES("\xeb\xfe"), 0, 0, NULL, 0},
	{"16 bits: cmp byte [5000h],77h; jne", HARNESS_REAL, BYTES("\x80\x3e\x00\x50\x77\x75\xf9"), 0, 0, NULL, 0},
	{"16 bits: call; jmp; ret", HARNESS_REAL, BYTES("\xe8\x02\x00\xeb\xfb\xc3"), 0, 0, NULL, 0},
	{"16 bits: jmp far", HARNESS_REAL, BYTES("\xea\x00\x00\x00\x10"), 0, 0, NULL, 0},
	{"16 bits: two pages", HARNESS_REAL, BYTES("\xe9\xfd\x0f"), 0, NEXT_PAGE, BYTES("\xe9\xfd\xef")},
	{"16 bits: the same byte in another code segment", HARNESS_REAL, BYTES("\xea\xf0\xff\x01\x00"), 0, 0, NULL, 0},
};

static struct harness h;
static const struct loop *current;
static volatile unsigned asked;

/* Handlers may use some stack, whatever the interrupted code's stack pointer means. */
static void use_stack(void)
{
	volatile char room[200 << 10];

	for (unsigned k = 0; k < sizeof(room); k += 4096)
		room[k] = 1;
}

static void ask(int signal)
{
	use_stack();
	h.stop = true;
	vcpu_call_out(h.v); /* more than once: the harness may be about to set it */
	if (++asked > PATIENCE) {
		static const char text[] = "an endless loop that is not left: ";

		if (write(STDOUT_FILENO, text, sizeof(text) - 1) < 0 || write(STDOUT_FILENO, current->name, strlen(current->name)) < 0 ||
		    write(STDOUT_FILENO, "\n", 1) < 0)
			_exit(2);
		_exit(1);
	}
}

static void put64(uint64_t at, uint64_t value)
{
	memcpy(h.ram + at, &value, 8);
}

/* Exception 6 has a handler that returns: IRETQ; the segments that it comes by. */
static void make_handler(void)
{
	const uint64_t handler = HARNESS_CODE + 0x800;

	put64(HARNESS_GDT + 8, 0x00af9b000000ffff);
	put64(HARNESS_GDT + 16, 0x00cf93000000ffff);
	put64(HARNESS_IDT + 6 * 16, (handler & 0xffff) | 8 << 16 | 0x8e00ull << 32 | (handler & 0xffff0000) << 32);
	put64(HARNESS_IDT + 6 * 16 + 8, 0);
	memcpy(h.ram + handler, "\x48\xcf", 2);
}

static uint64_t gpa_of(uint32_t linear)
{
	return linear < FAR_APART ? linear : linear - FAR_APART + FAR_GPA;
}

static void load(const struct loop *l)
{
	harness_reset(&h, l->mode);
	put64(HARNESS_TABLES + 0x2000 + 8 * (FAR_APART >> 21), FAR_GPA | PTE_P | PTE_W | PTE_PS);
	make_handler();
	memcpy(h.ram + HARNESS_CODE, l->code, l->size);
	if (l->other)
		memcpy(h.ram + gpa_of(l->other), l->other_code, l->other_size);
	code_written(&h.vm, 0, HARNESS_RAM);
	if (l->start)
		h.v->rip = l->start;
	h.v->gpr[RCX] = 5;
	h.v->gpr[RBX] = HARNESS_DATA;
	h.v->gpr[RBP] = HARNESS_DATA + 4096 - 8;
}

static void run(const struct loop *l, unsigned after_us)
{
	struct itimerval timer = {.it_value = {.tv_usec = after_us}, .it_interval = {.tv_usec = AGAIN_US}}, never = {0};
	int result;

	load(l);
	asked = 0;
	h.stop = false;
	setitimer(ITIMER_REAL, &timer, NULL);
	result = harness_run_to_halt(&h);
	setitimer(ITIMER_REAL, &never, NULL);
	if (result != HARNESS_EXIT || !h.stop)
		fail_msg("%s ended after %u us: %d at %lx", l->name, after_us, result, (unsigned long)h.v->rip);
}

static void test_loops(void **state)
{
	for (unsigned k = 0; k < sizeof(loops) / sizeof(loops[0]); k++) {
		current = &loops[k];
		assert_int_equal(harness_new_on(&h, current->mode, &engine_translate), 0);
		for (unsigned n = 1; n <= STOPS; n++)
			run(current, n * LATEST_US / STOPS);
		harness_free(&h);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_loops),
	};

	signal(SIGALRM, ask);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
