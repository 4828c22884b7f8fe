/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The KVM contract as its clients rely on it, through kvm/kvm.h: the same program runs against every engine
 * of softkvm and against the kernel's KVM. GUISE_TEST_ENGINE names the engine ("interpret" if unset).
 *
 * The machine: RAM at 0..0xa0000 (slot 0), nothing up to 1 MiB, RAM at 1..2 MiB (slot 1); code in real mode
 * at 0:1000.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "kvm/kvm.h"

enum { LOW_SIZE = 0xa0000, HIGH_GPA = 1 << 20, HIGH_SIZE = 1 << 20, CODE = 0x1000, HOLE = 0xc0000 };

struct fixture {
	struct kvm *kvm;
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	struct kvm_run *run;
	uint8_t *low, *high;
};

static void *new_ram(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

static void offer_cpuid(struct fixture *f)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + 256 * sizeof(struct kvm_cpuid_entry2));

	c->nent = 256;
	assert_true(kvm_get_supported_cpuid(f->kvm, c) >= 0);
	assert_int_equal(kvm_vcpu_set_cpuid(f->vcpu, c), 0);
	free(c);
}

static void open_machine(struct fixture *f, bool irqchip)
{
	static const struct {
		const char *name;
		enum kvm_engine engine;
	} engines[] = {{"interpret", KVM_ENGINE_INTERPRET},
		       {"translate", KVM_ENGINE_TRANSLATE},
		       {"kvm", KVM_ENGINE_KERNEL}};
	const char *name = getenv("GUISE_TEST_ENGINE"), *why = "";
	int err = -EINVAL;

	for (size_t i = 0; i < sizeof(engines) / sizeof(engines[0]); i++)
		if (!strcmp(name ? name : "interpret", engines[i].name))
			err = kvm_open(engines[i].engine, &f->kvm, &why);
	if (err < 0)
		fail_msg("%s: %s", name, why);
	assert_int_equal(kvm_vm_new(f->kvm, &f->vm), 0);
	if (!kvm_is_soft(f->kvm))
		kvm_vm_ioctl(f->vm, KVM_SET_TSS_ADDR, (void *)0xfffbd000);
	if (irqchip) {
		assert_int_equal(kvm_vm_create_irqchip(f->vm), 0);
		assert_int_equal(kvm_vm_create_pit(f->vm), 0);
	}
	f->low = new_ram(LOW_SIZE);
	f->high = new_ram(HIGH_SIZE);
	assert_int_equal(kvm_vm_set_memory(f->vm, 0, 0, 0, LOW_SIZE, f->low), 0);
	assert_int_equal(kvm_vm_set_memory(f->vm, 1, 0, HIGH_GPA, HIGH_SIZE, f->high), 0);
	assert_int_equal(kvm_vcpu_new(f->vm, 0, &f->vcpu), 0);
	f->run = kvm_vcpu_run_area(f->vcpu);
	offer_cpuid(f);
}

static int setup(void **state)
{
	*state = calloc(1, sizeof(struct fixture));
	open_machine(*state, false);
	return 0;
}

static int setup_irqchip(void **state)
{
	*state = calloc(1, sizeof(struct fixture));
	open_machine(*state, true);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	kvm_vcpu_free(f->vcpu);
	kvm_vm_free(f->vm);
	kvm_close(f->kvm);
	munmap(f->low, LOW_SIZE);
	munmap(f->high, HIGH_SIZE);
	free(f);
	return 0;
}

/* 16-bit code between two labels of this program. */
#define GUEST(name, text)                                                                                    \
	extern const uint8_t name[], name##_end[];                                                           \
	__asm__(".pushsection .rodata\n.code16\n" #name ":\n" text "\n" #name "_end:\n.code64\n.popsection")

static void start_at(struct fixture *f, uint64_t rip)
{
	struct kvm_regs regs = {.rip = rip, .rsp = 0x8000, .rflags = 2};
	struct kvm_sregs s;

	assert_int_equal(kvm_vcpu_get_sregs(f->vcpu, &s), 0);
	s.cs.base = s.cs.selector = 0;
	assert_int_equal(kvm_vcpu_set_sregs(f->vcpu, &s), 0);
	assert_int_equal(kvm_vcpu_set_regs(f->vcpu, &regs), 0);
}

#define LOAD(f, name)                                                                                        \
	do {                                                                                                 \
		memcpy((f)->low + CODE, name, (size_t)(name##_end - name));                                  \
		kvm_vm_memory_written((f)->vm, CODE, (size_t)(name##_end - name));                           \
		start_at(f, CODE);                                                                           \
	} while (0)

static struct kvm_vcpu *running;

static void on_alarm(int sig)
{
	kvm_vcpu_kick(running);
}

/* A guest that never exits fails the test after a minute. */
static uint32_t run(struct fixture *f)
{
	running = f->vcpu;
	alarm(60);
	assert_int_equal(kvm_vcpu_run(f->vcpu), 0);
	alarm(0);
	return f->run->exit_reason;
}

static void *io_data(struct fixture *f)
{
	return (uint8_t *)f->run + f->run->io.data_offset;
}

static struct kvm_regs regs_of(struct fixture *f)
{
	struct kvm_regs r;

	assert_int_equal(kvm_vcpu_get_regs(f->vcpu, &r), 0);
	return r;
}

static void expect_out(struct fixture *f, uint16_t port, uint32_t value)
{
	uint32_t got = 0;

	assert_int_equal(run(f), KVM_EXIT_IO);
	assert_int_equal(f->run->io.direction, KVM_EXIT_IO_OUT);
	assert_int_equal(f->run->io.port, port);
	memcpy(&got, io_data(f), f->run->io.size);
	assert_int_equal(got, value);
}

/* --- ports --- */

GUEST(guest_ports, "movb $0x12, %al; outb %al, $0x40; movw $0x3456, %ax; movw $0x1234, %dx; outw %ax, %dx\n"
		   "movl $0x789abcde, %eax; outl %eax, %dx; xorl %eax, %eax; inb $0x41, %al; outl %eax, %dx\n"
		   "movl $-1, %eax; inw %dx, %ax; outl %eax, %dx; inl %dx, %eax; outl %eax, %dx; hlt");

static void ports(void **state)
{
	struct fixture *f = *state;

	LOAD(f, guest_ports);
	expect_out(f, 0x40, 0x12);
	assert_int_equal(f->run->io.size, 1);
	assert_int_equal(f->run->io.count, 1);
	expect_out(f, 0x1234, 0x3456);
	expect_out(f, 0x1234, 0x789abcde);
	assert_int_equal(run(f), KVM_EXIT_IO);
	assert_int_equal(f->run->io.direction, KVM_EXIT_IO_IN);
	assert_int_equal(f->run->io.port, 0x41);
	*(uint8_t *)io_data(f) = 0xa5;
	expect_out(f, 0x1234, 0xa5);
	assert_int_equal(run(f), KVM_EXIT_IO);
	*(uint16_t *)io_data(f) = 0x1111;
	expect_out(f, 0x1234, 0xffff1111);
	assert_int_equal(run(f), KVM_EXIT_IO);
	*(uint32_t *)io_data(f) = 0x22222222;
	expect_out(f, 0x1234, 0x22222222);
	assert_int_equal(run(f), KVM_EXIT_HLT);
}

GUEST(guest_strings, "cld; movw $0x2000, %si; movw $3000, %cx; movw $0x77, %dx; rep outsb\n"
		     "movw $0x4000, %di; movw $1500, %cx; rep insw; movw %cx, %ax; outw %ax, $0x10; hlt");

static void string_ports(void **state)
{
	struct fixture *f = *state;
	uint32_t done = 0;

	LOAD(f, guest_strings);
	for (unsigned i = 0; i < 3000; i++)
		f->low[0x2000 + i] = (uint8_t)(i * 7);
	while (done < 3000) {
		assert_int_equal(run(f), KVM_EXIT_IO);
		assert_int_equal(f->run->io.direction, KVM_EXIT_IO_OUT);
		assert_int_equal(f->run->io.size, 1);
		for (uint32_t i = 0; i < f->run->io.count; i++, done++)
			assert_int_equal(((uint8_t *)io_data(f))[i], (uint8_t)(done * 7));
	}
	for (done = 0; done < 1500;) {
		assert_int_equal(run(f), KVM_EXIT_IO);
		assert_int_equal(f->run->io.direction, KVM_EXIT_IO_IN);
		for (uint32_t i = 0; i < f->run->io.count; i++)
			((uint16_t *)io_data(f))[i] = (uint16_t)done++;
	}
	expect_out(f, 0x10, 0);
	for (unsigned i = 0; i < 1500; i++)
		assert_int_equal(((uint16_t *)(f->low + 0x4000))[i], i);
}

/* --- device memory --- */

static void expect_mmio(struct fixture *f, uint64_t gpa, unsigned len, bool is_write)
{
	assert_int_equal(run(f), KVM_EXIT_MMIO);
	assert_int_equal(f->run->mmio.phys_addr, gpa);
	assert_int_equal(f->run->mmio.len, len);
	assert_int_equal(f->run->mmio.is_write, is_write);
}

GUEST(
    guest_mmio,
    "movw $0xc000, %ax; movw %ax, %ds; movl $0x11223344, %eax; movl %eax, 8; movw %ax, 2; movb 5, %al\n"
    "outb %al, $0x10; addw $1, 0x20; xorw %bx, %bx; movl 0x30, %ecx; movl %ecx, %eax; outl %eax, $0x10; hlt");

static void device_memory(void **state)
{
	struct fixture *f = *state;
	uint32_t v;

	LOAD(f, guest_mmio);
	expect_mmio(f, HOLE + 8, 4, true);
	memcpy(&v, f->run->mmio.data, 4);
	assert_int_equal(v, 0x11223344);
	expect_mmio(f, HOLE + 2, 2, true);
	expect_mmio(f, HOLE + 5, 1, false);
	f->run->mmio.data[0] = 0x99;
	expect_out(f, 0x10, 0x99);
	expect_mmio(f, HOLE + 0x20, 2, false);
	f->run->mmio.data[0] = 0xff;
	f->run->mmio.data[1] = 0x10;
	expect_mmio(f, HOLE + 0x20, 2, true);
	assert_int_equal(f->run->mmio.data[0], 0);
	assert_int_equal(f->run->mmio.data[1], 0x11);
	expect_mmio(f, HOLE + 0x30, 4, false);
	memcpy(f->run->mmio.data, "\x78\x56\x34\x12", 4);
	expect_out(f, 0x10, 0x12345678);
	assert_int_equal(run(f), KVM_EXIT_HLT);
}

static void access_completes_before_immediate_exit(void **state)
{
	struct fixture *f = *state;

	LOAD(f, guest_ports);
	expect_out(f, 0x40, 0x12);
	f->run->immediate_exit = 1;
	assert_int_equal(kvm_vcpu_run(f->vcpu), -EINTR);
	assert_int_equal(regs_of(f).rip, CODE + 4); /* MOV and OUT are done, nothing more */
	f->run->immediate_exit = 1;		    /* a kick's return may have cleared it */
	assert_int_equal(kvm_vcpu_run(f->vcpu), -EINTR);
	assert_int_equal(regs_of(f).rip, CODE + 4);
	f->run->immediate_exit = 0;
	expect_out(f, 0x1234, 0x3456);
}

/* --- leaving a running guest --- */

GUEST(guest_loop, "1: incl 0x5000; jmp 1b");

static uint32_t loop_count(struct fixture *f)
{
	return __atomic_load_n((uint32_t *)(f->low + 0x5000), __ATOMIC_RELAXED);
}

/* Kicks once the guest has been seen to run. */
static void *kick_soon(void *arg)
{
	struct fixture *f = arg;
	uint32_t before = loop_count(f);

	for (int i = 0; i < 60000 && loop_count(f) == before; i++)
		usleep(1000);
	kvm_vcpu_kick(f->vcpu);
	return NULL;
}

static void kick_ends_a_loop(void **state)
{
	struct fixture *f = *state;

	LOAD(f, guest_loop);
	for (int i = 0; i < 3; i++) {
		uint32_t before = loop_count(f);
		pthread_t thread;

		assert_int_equal(pthread_create(&thread, NULL, kick_soon, f), 0);
		assert_int_equal(kvm_vcpu_run(f->vcpu), -EINTR);
		pthread_join(thread, NULL);
		assert_true(loop_count(f) != before);
	}
}

/* --- debugging from outside --- */

GUEST(guest_steps, "movw $3, %cx; 1: nop; loop 1b; pushf; popf; sti; cli; int3; nop; hlt");

static void single_steps(void **state)
{
	static const uint16_t expected[] = {3, 4, 3, 4, 3, 4, 6, 7, 8, 9, 10};
	struct fixture *f = *state;
	struct kvm_guest_debug debug = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP};

	LOAD(f, guest_steps);
	assert_int_equal(kvm_vcpu_ioctl(f->vcpu, KVM_SET_GUEST_DEBUG, &debug), 0);
	for (size_t i = 0; i < 8; i++) {
		assert_int_equal(run(f), KVM_EXIT_DEBUG);
		assert_int_equal(f->run->debug.arch.pc, CODE + expected[i]);
		assert_int_equal(regs_of(f).rip, CODE + expected[i]);
	}
	debug.control = 0;
	assert_int_equal(kvm_vcpu_ioctl(f->vcpu, KVM_SET_GUEST_DEBUG, &debug), 0);
	assert_int_equal(regs_of(f).rflags & 0x100, 0); /* the guest's TF was never set */
}

/*
 * QEMU's TCG as the processor under the kernel's KVM: its SVM neither intercepts INT3 nor arms a guest's
 * breakpoint registers.
 */
static bool is_on_tcg(struct fixture *f)
{
	uint32_t a = 0x40000000, b, c, d;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
	return !kvm_is_soft(f->kvm) && b == 0x54474354;
}

static void no_breakpoints_on_tcg(struct fixture *f)
{
	if (is_on_tcg(f)) {
		print_message("the emulated processor has no breakpoints for guests\n");
		skip();
	}
}

static void software_breakpoints(void **state)
{
	struct fixture *f = *state;
	struct kvm_guest_debug debug = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP};

	no_breakpoints_on_tcg(f);
	LOAD(f, guest_steps);
	assert_int_equal(kvm_vcpu_ioctl(f->vcpu, KVM_SET_GUEST_DEBUG, &debug), 0);
	assert_int_equal(run(f), KVM_EXIT_DEBUG);
	assert_int_equal(f->run->debug.arch.exception, 3);
	assert_int_equal(f->run->debug.arch.pc, CODE + 10);
	assert_int_equal(regs_of(f).rip, CODE + 10);
}

static void hardware_breakpoints(void **state)
{
	struct fixture *f = *state;
	struct kvm_guest_debug debug = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP};

	no_breakpoints_on_tcg(f);
	LOAD(f, guest_steps);
	debug.arch.debugreg[1] = CODE + 4; /* LOOP */
	debug.arch.debugreg[7] = 0x404;
	assert_int_equal(kvm_vcpu_ioctl(f->vcpu, KVM_SET_GUEST_DEBUG, &debug), 0);
	assert_int_equal(run(f), KVM_EXIT_DEBUG);
	assert_int_equal(f->run->debug.arch.exception, 1);
	assert_int_equal(f->run->debug.arch.pc, CODE + 4);
	assert_int_equal(f->run->debug.arch.dr6 & 0xf, 2);
	debug.arch.debugreg[1] = 0x5000; /* a write of data */
	debug.arch.debugreg[7] = 0x404 | 0xdull << 20;
	LOAD(f, guest_loop);
	assert_int_equal(kvm_vcpu_ioctl(f->vcpu, KVM_SET_GUEST_DEBUG, &debug), 0);
	assert_int_equal(run(f), KVM_EXIT_DEBUG);
	assert_int_equal(f->run->debug.arch.dr6 & 0xf, 2);
}

/* --- memory slots --- */

GUEST(guest_dirty,
      "movw $0xffff, %ax; movw %ax, %ds; movw $4, %bp\n" /* ffff:0010 is 1 MiB */
      "1: movb $1, 0x3010; movw $2, 0x5011; lock incl 0x7010; outb %al, $0x10; decw %bp; jnz 1b; hlt");

static uint64_t dirty_pages(struct fixture *f)
{
	uint64_t bits[HIGH_SIZE / 4096 / 64] = {0};
	struct kvm_dirty_log log = {.slot = 1, .dirty_bitmap = bits};

	assert_int_equal(kvm_vm_ioctl(f->vm, KVM_GET_DIRTY_LOG, &log), 0);
	return bits[0];
}

static void dirty_log(void **state)
{
	struct fixture *f = *state;
	uint64_t written = 1 << 3 | 1 << 5 | 1 << 7;

	LOAD(f, guest_dirty);
	expect_out(f, 0x10, 0xff); /* writes before logging are not seen */
	assert_int_equal(kvm_vm_set_memory(f->vm, 1, KVM_MEM_LOG_DIRTY_PAGES, HIGH_GPA, HIGH_SIZE, f->high),
			 0);
	assert_int_equal(dirty_pages(f), 0);
	expect_out(f, 0x10, 0xff);
	assert_int_equal(dirty_pages(f), written);
	assert_int_equal(dirty_pages(f), 0);
	expect_out(f, 0x10, 0xff); /* and again, by the same instructions */
	assert_int_equal(dirty_pages(f), written);
	assert_int_equal(kvm_vm_set_memory(f->vm, 1, 0, HIGH_GPA, HIGH_SIZE, f->high), 0);
	expect_out(f, 0x10, 0xff);
	assert_int_equal(f->high[0x3000], 1);
	assert_int_equal(f->high[0x7000], 4);
}

GUEST(guest_read_only, "movw $0xffff, %ax; movw %ax, %ds; movb 0x2010, %al; outb %al, $0x10; movb $0x77, "
		       "0x2010; movb 0x2010, %al\n"
		       "outb %al, $0x10; hlt");

static void read_only_slot(void **state)
{
	struct fixture *f = *state;

	if (kvm_check_extension(f->kvm, KVM_CAP_READONLY_MEM) <= 0)
		skip();
	LOAD(f, guest_read_only);
	f->high[0x2000] = 0x44;
	assert_int_equal(kvm_vm_set_memory(f->vm, 1, 0, HIGH_GPA, 0, f->high), 0);
	assert_int_equal(kvm_vm_set_memory(f->vm, 1, KVM_MEM_READONLY, HIGH_GPA, HIGH_SIZE, f->high), 0);
	expect_out(f, 0x10, 0x44);
	expect_mmio(f, HIGH_GPA + 0x2000, 1, true);
	assert_int_equal(f->run->mmio.data[0], 0x77);
	expect_out(f, 0x10, 0x44);
}

GUEST(guest_reader, "movw $0xffff, %ax; movw %ax, %ds; 1: movb 0x2010, %al; outb %al, $0x10; jmp 1b");

static void slots_come_and_go(void **state)
{
	struct fixture *f = *state;
	uint8_t *other = new_ram(HIGH_SIZE);

	LOAD(f, guest_reader);
	f->high[0x2000] = 1;
	other[0x2000] = 2;
	for (int i = 0; i < 5; i++) {
		expect_out(f, 0x10, 1);
		assert_int_equal(kvm_vm_set_memory(f->vm, 1, 0, HIGH_GPA, 0, f->high), 0);
		expect_mmio(f, HIGH_GPA + 0x2000, 1, false);
		f->run->mmio.data[0] = 0x55;
		expect_out(f, 0x10, 0x55);
		assert_int_equal(kvm_vm_set_memory(f->vm, 1, 0, HIGH_GPA, HIGH_SIZE, other), 0);
		expect_out(f, 0x10, 2);
		assert_int_equal(kvm_vm_set_memory(f->vm, 1, 0, HIGH_GPA, 0, other), 0);
		assert_int_equal(kvm_vm_set_memory(f->vm, 1, 0, HIGH_GPA, HIGH_SIZE, f->high), 0);
	}
	munmap(other, HIGH_SIZE);
}

GUEST(guest_other_code, "movb $9, %al; outb %al, $0x10; hlt");

static void code_of_another_slot(void **state)
{
	struct fixture *f = *state;
	uint8_t *other = new_ram(LOW_SIZE);

	LOAD(f, guest_ports);
	expect_out(f, 0x40, 0x12);
	f->run->immediate_exit = 1; /* the OUT under way */
	assert_int_equal(kvm_vcpu_run(f->vcpu), -EINTR);
	f->run->immediate_exit = 0;
	memcpy(other + CODE, guest_other_code, (size_t)(guest_other_code_end - guest_other_code));
	assert_int_equal(kvm_vm_set_memory(f->vm, 0, 0, 0, 0, f->low), 0);
	assert_int_equal(kvm_vm_set_memory(f->vm, 0, 0, 0, LOW_SIZE, other), 0);
	start_at(f, CODE);
	expect_out(f, 0x10, 9);
	/* A device that writes code. */
	other[CODE + 1] = 8;
	kvm_vm_memory_written(f->vm, CODE + 1, 1);
	assert_int_equal(run(f), KVM_EXIT_HLT);
	start_at(f, CODE);
	expect_out(f, 0x10, 8);
	assert_int_equal(kvm_vm_set_memory(f->vm, 0, 0, 0, 0, other), 0);
	munmap(other, LOW_SIZE);
}

/* --- doorbells and interrupts --- */

static uint64_t drain(int fd)
{
	uint64_t n = 0;

	return read(fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

GUEST(guest_rings,
      "movw $0xc000, %ax; movw %ax, %ds; movb $1, %al; outb %al, $0x55; movb $2, %al; outb %al, $0x55\n"
      "movl $7, 0x100; movl $8, 0x100; movw $7, 0x100; hlt");

static void doorbells(void **state)
{
	struct fixture *f = *state;
	int port_fd = eventfd(0, EFD_NONBLOCK), mmio_fd = eventfd(0, EFD_NONBLOCK);
	struct kvm_ioeventfd port = {.addr = 0x55,
				     .len = 1,
				     .fd = port_fd,
				     .datamatch = 1,
				     .flags = KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH};
	struct kvm_ioeventfd mmio = {.addr = HOLE + 0x100, .len = 4, .fd = mmio_fd};

	LOAD(f, guest_rings);
	assert_int_equal(kvm_vm_ioeventfd(f->vm, &port), 0);
	assert_int_equal(kvm_vm_ioeventfd(f->vm, &mmio), 0);
	assert_true(kvm_vm_ioeventfd(f->vm, &mmio) < 0);
	expect_out(f, 0x55, 2); /* 1 went to the eventfd */
	assert_int_equal(drain(port_fd), 1);
	expect_mmio(f, HOLE + 0x100, 2, true); /* another width */
	assert_int_equal(drain(mmio_fd), 2);
	mmio.flags = KVM_IOEVENTFD_FLAG_DEASSIGN;
	assert_int_equal(kvm_vm_ioeventfd(f->vm, &mmio), 0);
	assert_true(kvm_vm_ioeventfd(f->vm, &mmio) < 0);
	start_at(f, CODE);
	expect_out(f, 0x55, 2);
	expect_mmio(f, HOLE + 0x100, 4, true);
	close(port_fd);
	close(mmio_fd);
}

GUEST(guest_waits, "movw $0x70, 0x40 * 4; movw $0, 0x40 * 4 + 2\n" /* replaced by the test */
		   "1: sti; hlt; jmp 1b");
GUEST(guest_handler, "outb %al, $0x10; iretw");

/* Interrupts by KVM_INTERRUPT, without interrupt controllers in the VM. */
static void interrupts_from_outside(void **state)
{
	struct fixture *f = *state;
	struct kvm_interrupt irq = {.irq = 0x40};

	memcpy(f->low + 0x3000, guest_handler, (size_t)(guest_handler_end - guest_handler));
	LOAD(f, guest_waits);
	*(uint16_t *)(f->low + CODE + 4) = 0x3000;
	assert_int_equal(run(f), KVM_EXIT_HLT);
	assert_int_equal(f->run->ready_for_interrupt_injection, 1);
	assert_int_equal(kvm_vcpu_ioctl(f->vcpu, KVM_INTERRUPT, &irq), 0);
	expect_out(f, 0x10, 0);
	f->run->request_interrupt_window = 1; /* IF is clear in the handler: told when it is set again */
	assert_int_equal(run(f), KVM_EXIT_IRQ_WINDOW_OPEN);
	f->run->request_interrupt_window = 0;
	assert_int_equal(run(f), KVM_EXIT_HLT);
}

static void msi_and_irqfd(void **state)
{
	struct fixture *f = *state;
	struct kvm_lapic_state lapic;
	uint32_t svr = 0x1ff;
	int fd = eventfd(0, EFD_NONBLOCK);
	uint64_t one = 1;
	struct {
		struct kvm_irq_routing head;
		struct kvm_irq_routing_entry entry;
	} routing = {.head.nr = 1,
		     .entry = {.gsi = 30,
			       .type = KVM_IRQ_ROUTING_MSI,
			       .u.msi = {.address_lo = 0xfee00000, .data = 0x40}}};
	struct kvm_irqfd irqfd = {.fd = (uint32_t)fd, .gsi = 30};

	memcpy(f->low + 0x3000, guest_handler, (size_t)(guest_handler_end - guest_handler));
	LOAD(f, guest_waits);
	*(uint16_t *)(f->low + CODE + 4) = 0x3000;
	assert_int_equal(kvm_vcpu_ioctl(f->vcpu, KVM_GET_LAPIC, &lapic), 0);
	memcpy(lapic.regs + 0xf0, &svr, 4);
	assert_int_equal(kvm_vcpu_ioctl(f->vcpu, KVM_SET_LAPIC, &lapic), 0);
	assert_true(kvm_vm_signal_msi(f->vm, 0xfee00000, 0x40) > 0);
	expect_out(f, 0x10, 0);
	assert_int_equal(kvm_vm_set_gsi_routing(f->vm, &routing.head), 0);
	assert_int_equal(kvm_vm_irqfd(f->vm, &irqfd), 0);
	assert_int_equal(write(fd, &one, 8), 8);
	/* The first vector is still in service: it comes after an EOI only. */
	assert_int_equal(kvm_vcpu_ioctl(f->vcpu, KVM_GET_LAPIC, &lapic), 0);
	memset(lapic.regs + 0x100, 0, 0x80);
	f->run->immediate_exit = 1;
	assert_int_equal(kvm_vcpu_run(f->vcpu), -EINTR);
	f->run->immediate_exit = 0;
	assert_int_equal(kvm_vcpu_ioctl(f->vcpu, KVM_SET_LAPIC, &lapic), 0);
	usleep(20000);
	assert_int_equal(write(fd, &one, 8), 8);
	expect_out(f, 0x10, 0);
	irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
	assert_int_equal(kvm_vm_irqfd(f->vm, &irqfd), 0);
	close(fd);
}

/* --- state --- */

#define ROUND_TRIP(f, type, get, set, ...)                                                                   \
	do {                                                                                                 \
		type a_ = __VA_ARGS__, b_ = __VA_ARGS__;                                                     \
		assert_true(kvm_vcpu_ioctl((f)->vcpu, get, &a_) >= 0);                                       \
		assert_true(kvm_vcpu_ioctl((f)->vcpu, set, &a_) >= 0);                                       \
		assert_true(kvm_vcpu_ioctl((f)->vcpu, get, &b_) >= 0);                                       \
		assert_memory_equal(&a_, &b_, sizeof(a_));                                                   \
	} while (0)

static void state_round_trips(void **state)
{
	struct fixture *f = *state;

	LOAD(f, guest_ports);
	expect_out(f, 0x1234, 0x3456); /* port 0x40 is the PIT's */
	f->run->immediate_exit = 1;
	assert_int_equal(kvm_vcpu_run(f->vcpu), -EINTR);
	ROUND_TRIP(f, struct kvm_regs, KVM_GET_REGS, KVM_SET_REGS, {0});
	ROUND_TRIP(f, struct kvm_sregs, KVM_GET_SREGS, KVM_SET_SREGS, {0});
	ROUND_TRIP(f, struct kvm_fpu, KVM_GET_FPU, KVM_SET_FPU, {0});
	ROUND_TRIP(f, struct kvm_debugregs, KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, {0});
	ROUND_TRIP(f, struct kvm_vcpu_events, KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, {0});
	ROUND_TRIP(f, struct kvm_mp_state, KVM_GET_MP_STATE, KVM_SET_MP_STATE, {0});
	ROUND_TRIP(f, struct kvm_lapic_state, KVM_GET_LAPIC, KVM_SET_LAPIC, {{0}});
	if (kvm_check_extension(f->kvm, KVM_CAP_XSAVE) > 0)
		ROUND_TRIP(f, struct kvm_xsave, KVM_GET_XSAVE, KVM_SET_XSAVE, {{0}});
	f->run->immediate_exit = 0;
	expect_out(f, 0x1234, 0x789abcde);
}

GUEST(guest_nowhere, "lidtw 0x6000; int3"); /* an empty interrupt table */

static void triple_fault(void **state)
{
	struct fixture *f = *state;

	LOAD(f, guest_nowhere);
	assert_int_equal(run(f), KVM_EXIT_SHUTDOWN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name)	   cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_IRQCHIP(name) cmocka_unit_test_setup_teardown(name, setup_irqchip, teardown)
	    TEST(ports),
	    TEST(string_ports),
	    TEST(device_memory),
	    TEST(access_completes_before_immediate_exit),
	    TEST(kick_ends_a_loop),
	    TEST(single_steps),
	    TEST(software_breakpoints),
	    TEST(hardware_breakpoints),
	    TEST(dirty_log),
	    TEST(read_only_slot),
	    TEST(slots_come_and_go),
	    TEST(code_of_another_slot),
	    TEST_IRQCHIP(doorbells),
	    TEST(interrupts_from_outside),
	    TEST_IRQCHIP(msi_and_irqfd),
	    TEST_IRQCHIP(state_round_trips),
	    TEST(triple_fault),
	};
	const char *engine = getenv("GUISE_TEST_ENGINE");

	signal(SIGALRM, on_alarm);
	if (engine && !strcmp(engine, "kvm") && access("/dev/kvm", R_OK | W_OK)) {
		printf("SKIP: no /dev/kvm\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
