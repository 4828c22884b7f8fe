// SPDX-License-Identifier: BSD-2-Clause
/* What guest code makes KVM_RUN say: the run area's fields after each exit, and the registers. */
#include "record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static char title[64];

static const char *key_of(unsigned step, const char *name)
{
	static char key[128];

	snprintf(key, sizeof(key), "guest %s, exit %u: %s", title, step, name);
	return key;
}

static void say_data(unsigned step, const uint8_t *data, unsigned size)
{
	char text[64] = "";

	for (unsigned i = 0; i < size && i < 16; i++)
		sprintf(text + strlen(text), " %02x", data[i]);
	say(key_of(step, "data"), "%s", text);
}

static void say_exit(struct machine *m, unsigned step, int result)
{
	struct kvm_run *run = m->run;
	struct kvm_regs regs;

	say_result(key_of(step, "KVM_RUN"), result);
	call(m->vcpu, KVM_GET_REGS, &regs);
	say(key_of(step, "rip"), "%llx", regs.rip);
	say(key_of(step, "rflags"), "%llx", regs.rflags);
	say(key_of(step, "rax"), "%llx", regs.rax);
	say(key_of(step, "rcx"), "%llx", regs.rcx);
	say(key_of(step, "common"), "if_flag %u ready %u flags %x cr8 %llx", run->if_flag, run->ready_for_interrupt_injection,
	    run->flags, run->cr8);
	say(key_of(step, "reason"), "%u", run->exit_reason);
	if (result)
		return;
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		say(key_of(step, "port"), "direction %u size %u port %x count %u offset %llx", run->io.direction, run->io.size,
		    run->io.port, run->io.count, run->io.data_offset);
		if (run->io.direction == KVM_EXIT_IO_OUT)
			say_data(step, (uint8_t *)run + run->io.data_offset, run->io.size * run->io.count);
		else
			memset((uint8_t *)run + run->io.data_offset, 0xa5, run->io.size * run->io.count);
		break;
	case KVM_EXIT_MMIO:
		say(key_of(step, "access"), "gpa %llx size %u write %u", run->mmio.phys_addr, run->mmio.len, run->mmio.is_write);
		if (run->mmio.is_write)
			say_data(step, run->mmio.data, run->mmio.len);
		else
			memset(run->mmio.data, 0x3c, sizeof(run->mmio.data));
		break;
	case KVM_EXIT_DEBUG:
		say(key_of(step, "debug"), "exception %u pc %llx dr6 %llx dr7 %llx", run->debug.arch.exception, run->debug.arch.pc,
		    run->debug.arch.dr6, run->debug.arch.dr7);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		say(key_of(step, "suberror"), "%u", run->internal.suberror);
		break;
	}
}

static void run_steps(struct machine *m, const char *name, unsigned first, unsigned count)
{
	snprintf(title, sizeof(title), "%s", name);
	for (unsigned step = first; step < first + count; step++)
		say_exit(m, step, machine_run(m));
}

static void with(enum irqchip irqchip, const char *name, const uint8_t *code, const uint8_t *end, unsigned steps)
{
	struct machine m = machine_new(irqchip);

	machine_load(&m, code, (unsigned)(end - code));
	run_steps(&m, name, 1, steps);
	machine_free(&m);
}

GUEST(ports, "movb $0x12, %al; outb %al, $0x40; movw $0x3456, %ax; movw $0x1234, %dx; outw %ax, %dx; inb $0x41, %al\n"
	     "inl %dx, %eax; hlt; nop; hlt");
GUEST(strings, "cld; movw $0x2000, %si; movw $5, %cx; movw $0x77, %dx; rep outsb; movw $0x4000, %di; movw $3, %cx\n"
	       "rep insw; movw $0, %cx; rep outsb; hlt");
GUEST(mmio, "movw $0xf800, %ax; movw %ax, %ds; movl $0x11223344, %eax; movl %eax, 0x8008; movw 0x8002, %ax; incb 0x8005\n"
	    "movw $0xffff, %ax; movw %ax, %ds; movl 0x10, %eax; movl %eax, 0xfe; pushw 0x20; hlt");
GUEST(triple, "lidt 0x600; int3; hlt");
GUEST(step, "movw $3, %cx; 1: nop; loop 1b; int3; hlt");
GUEST(window, "sti; nop; hlt; cli; hlt");
GUEST(invalid_msr, "movl $0x12345678, %ecx; movw $0x200, 0x34; movw $0, 0x36; movb $0xf4, 0x200; rdmsr; nop; hlt");
GUEST(hypercall, "movl $99, %eax; vmmcall; hlt");
GUEST(wide, "movw $0xffff, %ax; movw %ax, %ds; movw $0x10, %si; movw $0x600, %di\n"
	    "cld; movw $3, %cx; rep movsb; hlt");

static void guest_debug(void)
{
	struct kvm_guest_debug debug = {.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP};
	struct machine m = machine_new(NO_IRQCHIP);

	LOAD(&m, step);
	say_result("single step on", call(m.vcpu, KVM_SET_GUEST_DEBUG, &debug));
	run_steps(&m, "single step", 1, 4);
	debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
	say_result("software breakpoints on", call(m.vcpu, KVM_SET_GUEST_DEBUG, &debug));
	run_steps(&m, "software breakpoint", 1, 1);
	debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
	debug.arch.debugreg[0] = CODE_GPA + 4;
	debug.arch.debugreg[7] = 0x401;
	say_result("hardware breakpoints on", call(m.vcpu, KVM_SET_GUEST_DEBUG, &debug));
	LOAD(&m, step);
	run_steps(&m, "hardware breakpoint", 1, 2);
	machine_free(&m);
}

static void interrupts(void)
{
	struct kvm_interrupt irq = {.irq = 0x20};
	struct machine m = machine_new(NO_IRQCHIP);

	LOAD(&m, window);
	m.ram[0x80] = 0; /* vector 20h: 0:700, HLT */
	m.ram[0x81] = 7;
	m.ram[0x700] = 0xf4;
	m.run->request_interrupt_window = 1;
	run_steps(&m, "window", 1, 1);
	m.run->request_interrupt_window = 0;
	say_result("KVM_INTERRUPT in the window", call(m.vcpu, KVM_INTERRUPT, &irq));
	say_result("KVM_INTERRUPT again", call(m.vcpu, KVM_INTERRUPT, &irq));
	run_steps(&m, "window", 2, 1);
	irq.irq = 256;
	say_result("KVM_INTERRUPT 256", call(m.vcpu, KVM_INTERRUPT, &irq));
	say_result("KVM_NMI", call_number(m.vcpu, KVM_NMI, 0));
	m.ram[8] = 0x10; /* NMI: 0:710, HLT */
	m.ram[9] = 7;
	m.ram[0x710] = 0xf4;
	run_steps(&m, "NMI", 1, 1);
	machine_free(&m);
}

/* --- counters --- */

/* The value of a counter in a file of KVM_GET_STATS_FD, read as its header says; -1: none. */
static long counter(int fd, const char *name)
{
	struct kvm_stats_header header;
	uint8_t desc[sizeof(struct kvm_stats_desc) + 256];
	uint64_t value;

	if (pread(fd, &header, sizeof(header), 0) != sizeof(header) || header.name_size > 256)
		return -2;
	for (uint32_t i = 0; i < header.num_desc; i++) {
		const struct kvm_stats_desc *d = (const void *)desc;
		size_t size = sizeof(*d) + header.name_size;

		if (pread(fd, desc, size, (off_t)(header.desc_offset + i * size)) != (ssize_t)size)
			return -3;
		if (strncmp((const char *)desc + sizeof(*d), name, header.name_size))
			continue;
		if (d->flags || d->size != 1 || d->exponent || pread(fd, &value, 8, header.data_offset + d->offset) != 8)
			return -4;
		return (long)value;
	}
	return -1;
}

static void say_file(int fd, const char *key)
{
	struct kvm_stats_header header = {0};
	char text[80], id[64] = "";

	snprintf(text, sizeof(text), "%s: header", key);
	say(text, "%d", pread(fd, &header, sizeof(header), 0) == sizeof(header) && !header.flags && header.id_offset == sizeof(header) &&
				header.data_offset > header.desc_offset);
	snprintf(text, sizeof(text), "%s: writing", key);
	say_result(text, write(fd, &header, 1) < 0 ? -errno : 0);
	snprintf(text, sizeof(text), "%s: close-on-exec", key);
	say(text, "%d", fcntl(fd, F_GETFD));
	if (pread(fd, id, sizeof(id) - 1, header.id_offset) > 0) {
		char *rest = strchr(id, '/');

		snprintf(text, sizeof(text), "%s: id", key);
		say(text, "%.4s %s", id, rest ? rest : "");
	}
}

static void counters(void)
{
	struct machine m = machine_new(NO_IRQCHIP);
	int vcpu, vm;

	LOAD(&m, ports);
	machine_run(&m);
	vcpu = call_number(m.vcpu, KVM_GET_STATS_FD, 0);
	vm = call_number(m.vm, KVM_GET_STATS_FD, 0);
	say_file(vcpu, "counters of the vCPU");
	say_file(vm, "counters of the VM");
	say("counters: one exit", "io %ld mmio %ld", counter(vcpu, "io_exits"), counter(vcpu, "mmio_exits"));
	for (unsigned k = 0; k < 4; k++)
		machine_run(&m);
	say("counters: to HLT", "io %ld halt %ld", counter(vcpu, "io_exits"), counter(vcpu, "halt_exits"));
	LOAD(&m, hypercall);
	machine_run(&m);
	say("counters: hypercall", "%ld of %ld more", counter(vcpu, "hypercalls"), counter(vcpu, "no_such_counter"));
	m.run->immediate_exit = 1;
	machine_run(&m);
	m.run->immediate_exit = 0;
	say("counters: the engine's exits", "%d", counter(vcpu, "exits") > 5);
	close(vcpu);
	vcpu = call_number(m.vcpu, KVM_GET_STATS_FD, 0);
	say("counters: in another file", "io %ld", counter(vcpu, "io_exits"));
	close(vcpu);
	close(vm);
	machine_free(&m);
}

static void immediate_exit(void)
{
	struct machine m = machine_new(NO_IRQCHIP);

	LOAD(&m, ports);
	m.run->immediate_exit = 1;
	run_steps(&m, "immediate exit", 1, 1);
	m.run->immediate_exit = 0;
	run_steps(&m, "immediate exit", 2, 1);
	m.run->immediate_exit = 1; /* completes the port access, and no more */
	run_steps(&m, "immediate exit", 3, 1);
	machine_free(&m);
}

/* Slots that are read-only, or come and go between exits. */
GUEST(rom, "movw $0x8000, %ax; movw %ax, %ds; movw 0, %ax; movw %ax, 2; movw 0, %ax; hlt");

static void read_only(void)
{
	struct machine m = machine_new(NO_IRQCHIP);
	struct kvm_userspace_memory_region region = {.slot = 1, .flags = KVM_MEM_READONLY, .guest_phys_addr = 0x80000,
						     .memory_size = 0x1000, .userspace_addr = (uintptr_t)m.ram + 0x9000};
	struct kvm_userspace_memory_region low = {.memory_size = 0x80000, .userspace_addr = (uintptr_t)m.ram};
	struct kvm_userspace_memory_region none = {0};

	say_result("slot 0 away", call(m.vm, KVM_SET_USER_MEMORY_REGION, &none));
	say_result("slot 0 smaller", call(m.vm, KVM_SET_USER_MEMORY_REGION, &low));
	say_result("a read-only slot", call(m.vm, KVM_SET_USER_MEMORY_REGION, &region));
	m.ram[0x9000] = 0x77;
	LOAD(&m, rom);
	run_steps(&m, "read-only memory", 1, 2);
	machine_free(&m);
}

GUEST(nothing_here, "nop");

static void no_memory(void)
{
	struct kvm_userspace_memory_region none = {0};
	struct machine m = machine_new(NO_IRQCHIP);

	LOAD(&m, nothing_here);
	say_result("slot 0 away", call(m.vm, KVM_SET_USER_MEMORY_REGION, &none));
	run_steps(&m, "without memory", 1, 1);
	machine_free(&m);
}

void record_exits(void)
{
	with(NO_IRQCHIP, "ports", ports, ports_end, 6);
	with(NO_IRQCHIP, "strings", strings, strings_end, 3);
	with(NO_IRQCHIP, "device memory", mmio, mmio_end, 8);
	with(FULL_IRQCHIP, "device memory, irqchip", mmio, mmio_end, 3);
	with(NO_IRQCHIP, "triple fault", triple, triple_end, 1); /* then it would run from the reset vector */
	with(NO_IRQCHIP, "invalid MSR", invalid_msr, invalid_msr_end, 1);
	with(NO_IRQCHIP, "hypercall", hypercall, hypercall_end, 1);
	with(NO_IRQCHIP, "string from device memory", wide, wide_end, 4);
	guest_debug();
	interrupts();
	counters();
	immediate_exit();
	read_only();
	no_memory();
}
