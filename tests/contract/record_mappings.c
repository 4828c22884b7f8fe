// SPDX-License-Identifier: BSD-2-Clause
/*
 * Memory under a slot that the process unmaps, protects, moves or drops while the guest uses it. The guest reads and writes
 * one page over and over; each change is made twice: between two KVM_RUNs, and by another thread during one.
 */
#include "record.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, DATA = 0x20000, COUNTER = DATA, OTHER = 0x30000, CODE2 = 0x40000 };

/* DS = 2000h. Counts at DS:0, has its neighbour at DS:8 follow, and goes on while the word at ES:0 (3000h) is 0. */
GUEST(counter, "movw $0x2000, %ax; movw %ax, %ds; movw $0x3000, %ax; movw %ax, %es\n"
	       "1: incl 0; movl 0, %eax; movl %eax, 8; cmpw $0, %es:0; je 1b; hlt");
GUEST(reader, "movw $0x2000, %ax; movw %ax, %ds; movw $0x3000, %ax; movw %ax, %es\n"
	      "1: movl 0, %eax; cmpw $0, %es:0; je 1b; hlt");
GUEST(caller, "movw $0x3000, %ax; movw %ax, %es; 1: lcall $0x4000, $0; cmpw $0, %es:0; je 1b; hlt");

typedef int change_fn(uint8_t *page);

static int unmap(uint8_t *page)
{
	return munmap(page, PAGE);
}

static int protect_none(uint8_t *page)
{
	return mprotect(page, PAGE, PROT_NONE);
}

static int protect_read(uint8_t *page)
{
	return mprotect(page, PAGE, PROT_READ);
}

static int drop(uint8_t *page)
{
	return madvise(page, PAGE, MADV_DONTNEED);
}

static int move_away(uint8_t *page)
{
	return mremap(page, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, page + 0x10000000) == MAP_FAILED ? -1 : 0;
}

static int map_over(uint8_t *page)
{
	return mmap(page, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED ? -1 : 0;
}

static int map_read_over(uint8_t *page)
{
	return mmap(page, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED ? -1 : 0;
}

static const struct {
	const char *name;
	change_fn *change;
} changes[] = {
	{"munmap", unmap}, {"mprotect to nothing", protect_none}, {"mprotect to reading", protect_read},
	{"MADV_DONTNEED", drop}, {"mremap", move_away}, {"mmap over it", map_over}, {"mmap for reading over it", map_read_over},
};

static uint32_t *word(struct machine *m, unsigned at)
{
	return (uint32_t *)(m->ram + at);
}

static const char *key_of(const char *guest, const char *change, const char *when, const char *name)
{
	static char key[160];

	snprintf(key, sizeof(key), "%s, %s %s: %s", guest, change, when, name);
	return key;
}

struct job {
	struct machine *m;
	change_fn *change;
	int result;
	pthread_t runner;
	volatile bool done;
};

static void nothing(int number)
{
}

/* Wait until the guest has been in its loop for a while, change, then have it end if it still runs. */
static void *change_later(void *arg)
{
	struct job *job = arg;

	usleep(50000);
	job->result = job->change(job->m->ram + DATA);
	usleep(100000);
	*word(job->m, OTHER) = 1;
	for (int i = 0; i < 2000 && !job->done; i++)
		usleep(10000);
	return NULL;
}

static void say_end(struct machine *m, const char *guest, const char *change, const char *when, int ret)
{
	struct kvm_regs regs;

	say_result(key_of(guest, change, when, "KVM_RUN"), ret);
	if (!ret)
		say(key_of(guest, change, when, "exit"), "%u", m->run->exit_reason);
	call(m->vcpu, KVM_GET_REGS, &regs);
	if (!strstr(when, "during") || strstr(when, "again")) /* else it is one of two or three instructions */
		say(key_of(guest, change, when, "rip"), "%llx", regs.rip);
}

/* The page is there again: it goes on where it was. */
static void go_on(struct machine *m, const char *guest, const char *change, const char *when)
{
	map_over(m->ram + DATA);
	*word(m, OTHER) = 1;
	say_end(m, guest, change, when, machine_run(m));
	if (!strstr(when, "during"))
		say(key_of(guest, change, when, "the page afterwards"), "%x %x", *word(m, COUNTER) != 0, *word(m, COUNTER + 8) != 0);
}

static void one(const char *guest, const uint8_t *code, const uint8_t *end, unsigned which, bool during)
{
	struct machine m = machine_new(NO_IRQCHIP);
	struct job job = {.m = &m, .change = changes[which].change};
	const char *when = during ? "during KVM_RUN" : "between";
	pthread_t thread;
	int ret;

	machine_load(&m, code, (unsigned)(end - code));
	if (during) {
		pthread_create(&thread, NULL, change_later, &job);
		ret = machine_run(&m);
		job.done = true;
		pthread_join(thread, NULL);
	} else {
		*word(&m, OTHER) = 1;
		machine_run(&m); /* once through, so that everything is known */
		*word(&m, OTHER) = 0;
		machine_load(&m, code, (unsigned)(end - code));
		job.result = job.change(m.ram + DATA);
		*word(&m, OTHER) = 1;
		ret = machine_run(&m);
	}
	say(key_of(guest, changes[which].name, when, "done"), "%d", job.result);
	say_end(&m, guest, changes[which].name, when, ret);
	if (ret) {
		char again[64];

		snprintf(again, sizeof(again), "%s, mapped again", when);
		go_on(&m, guest, changes[which].name, again);
	}
	machine_free(&m);
}

/* Code: RETF on a page that gets other contents: INC of the word at ES:4, RETF. */
static void code_changes(void)
{
	static const uint8_t first[] = {0xcb}, second[] = {0x26, 0xfe, 0x06, 0x04, 0x00, 0xcb};
	struct machine m = machine_new(NO_IRQCHIP);
	uint8_t *other = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	memcpy(m.ram + CODE2, first, sizeof(first));
	*word(&m, OTHER) = 1;
	LOAD(&m, caller);
	say_result("code before", machine_run(&m));
	memcpy(other, second, sizeof(second));
	if (mremap(other, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, m.ram + CODE2) == MAP_FAILED)
		give_up("mremap");
	LOAD(&m, caller);
	say_result("code moved in", machine_run(&m));
	say("code moved in: counted", "%x", m.ram[OTHER + 4]);
	madvise(m.ram + CODE2, PAGE, MADV_DONTNEED); /* zeroes: ADD [BX+SI], AL, up to the page's end and beyond */
	m.ram[CODE2 + 2] = 0xcb;
	LOAD(&m, caller);
	say_result("code dropped", machine_run(&m));
	say("code dropped: counted", "%x", m.ram[OTHER + 4]);
	munmap(m.ram + CODE2, PAGE);
	LOAD(&m, caller);
	say_end(&m, "code", "munmap", "between", machine_run(&m));
	machine_free(&m);
}

/* Page tables, and a stack, that are not mapped: the guest's own walk, and the processor's pushes. */
GUEST(pusher, "movw $0x2000, %ax; movw %ax, %ss; movw $0x800, %sp; pushw %ax; hlt");

static void stack_unmapped(void)
{
	struct machine m = machine_new(NO_IRQCHIP);

	LOAD(&m, pusher);
	munmap(m.ram + DATA, PAGE);
	say_end(&m, "stack", "munmap", "between", machine_run(&m));
	machine_free(&m);
}

/* A slot may be made over memory that is not there. */
static void slot_over_hole(void)
{
	struct machine m = machine_new(NO_IRQCHIP);
	struct kvm_userspace_memory_region none = {0}, all = {.memory_size = RAM_SIZE, .userspace_addr = (uintptr_t)m.ram};

	call(m.vm, KVM_SET_USER_MEMORY_REGION, &none);
	munmap(m.ram + DATA, PAGE);
	mprotect(m.ram + OTHER, PAGE, PROT_READ);
	say_result("slot over a hole", call(m.vm, KVM_SET_USER_MEMORY_REGION, &all));
	LOAD(&m, counter);
	say_end(&m, "counter", "slot", "over a hole", machine_run(&m));
	machine_free(&m);
}

static void slot_before_mapping(void)
{
	struct machine m = machine_new(NO_IRQCHIP);
	uint8_t *place = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct kvm_userspace_memory_region region = {.slot = 1, .guest_phys_addr = 1 << 20, .memory_size = PAGE,
						     .userspace_addr = (uintptr_t)place};

	munmap(place, PAGE);
	say_result("slot over nothing", call(m.vm, KVM_SET_USER_MEMORY_REGION, &region));
	region.userspace_addr = 0;
	region.slot = 2;
	region.guest_phys_addr = 2 << 20;
	say_result("slot at address 0", call(m.vm, KVM_SET_USER_MEMORY_REGION, &region));
	region.userspace_addr = 1ull << 47;
	say_result("slot in the kernel's half", call(m.vm, KVM_SET_USER_MEMORY_REGION, &region));
	machine_free(&m);
}

void record_mappings(void)
{
	signal(SIGUSR1, nothing);
	for (unsigned i = 0; i < sizeof(changes) / sizeof(changes[0]); i++)
		for (unsigned during = 0; during < 2; during++) {
			one("counter", counter, counter_end, i, during);
			one("reader", reader, reader_end, i, during);
		}
	code_changes();
	stack_unmapped();
	slot_over_hole();
	slot_before_mapping();
}
