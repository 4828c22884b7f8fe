/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A vCPU that runs, and what other threads do to it meanwhile: kicks, signals, interrupts, changes of memory slots and of
 * doorbells. Meant for TSan as well.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "vm_fixture.h"

#ifdef __SANITIZE_THREAD__
enum { SANITIZES_THREADS = 1 };
#else
enum { SANITIZES_THREADS = 0 };
#endif

/* The vCPU's thread: KVM_RUN once, its result and exit reason. */
struct runner {
	struct vm_fixture *f;
	pthread_t thread;
	_Atomic bool done;
	long result;
	uint32_t reason;
};

static void *run_once(void *arg)
{
	struct runner *r = arg;

	r->result = fixture_vcpu(r->f, KVM_RUN, NULL);
	r->reason = r->f->run->exit_reason;
	r->done = true;
	return NULL;
}

static void start(struct runner *r, struct vm_fixture *f)
{
	*r = (struct runner){.f = f};
	assert_int_equal(pthread_create(&r->thread, NULL, run_once, r), 0);
}

static void wait_until_running(struct vm_fixture *f)
{
	while (atomic_load(&cpu(f, 0)->run_state) == VCPU_OUTSIDE)
		sleep_ms(1);
}

static void wait_until_halted(struct vm_fixture *f)
{
	while (atomic_load(&cpu(f, 0)->run_state) != VCPU_HALTED)
		sleep_ms(1);
}

static void finish(struct runner *r, long result, uint32_t reason)
{
	assert_int_equal(pthread_join(r->thread, NULL), 0);
	assert_int_equal(r->result, result);
	assert_int_equal(r->reason, reason);
}

static void kick_ends_a_loop(void **state)
{
	struct vm_fixture f;
	struct runner r;

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	LOAD(&f, 0xeb, 0xfe); /* jmp $ */
	start(&r, &f);
	wait_until_running(&f);
	softkvm_kick(f.vcpu[0]);
	finish(&r, -EINTR, KVM_EXIT_INTR);
	softkvm_kick(f.vcpu[0]); /* remembered for the next KVM_RUN, once */
	assert_int_equal(fixture_vcpu(&f, KVM_RUN, NULL), -EINTR);
	f.run->immediate_exit = 1;
	assert_int_equal(fixture_vcpu(&f, KVM_RUN, NULL), -EINTR);
	f.run->immediate_exit = 0;
	start(&r, &f);
	wait_until_running(&f);
	sleep_ms(5);
	assert_false(r.done);
	softkvm_kick(f.vcpu[0]);
	finish(&r, -EINTR, KVM_EXIT_INTR);
	fixture_close(&f);
}

static void kick_ends_a_halt(void **state)
{
	struct vm_fixture f;
	struct runner r;

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	LOAD(&f, 0xf4);
	start(&r, &f);
	wait_until_halted(&f);
	softkvm_kick(f.vcpu[0]);
	finish(&r, -EINTR, KVM_EXIT_INTR);
	assert_int_equal(cpu(&f, 0)->halted, 1); /* and goes on being halted */
	fixture_close(&f);
}

/* sti; hlt; out 10h, al -- with an IRET as handler of 24h. */
static void load_waiter(struct vm_fixture *f)
{
	struct kvm_irqchip pic = {.chip_id = KVM_IRQCHIP_PIC_MASTER};

	LOAD(f, 0xfb, 0xf4, 0xe6, 0x10);
	memcpy(f->ram + 0x24 * 4, "\x00\x30\x00\x00", 4);
	memcpy(f->ram + 2 * 4, "\x00\x30\x00\x00", 4);
	f->ram[0x3000] = 0xcf;
	pic.chip.pic.irq_base = 0x20;
	assert_int_equal(fixture_vm(f, KVM_SET_IRQCHIP, &pic), 0);
}

static void interrupts_wake(void **state)
{
	struct vm_fixture f;
	struct runner r;
	struct kvm_irq_level level = {.irq = 4, .level = 1};
	struct kvm_irqfd irqfd = {.gsi = 4};
	int fd = eventfd(0, 0);

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	load_waiter(&f);
	start(&r, &f);
	wait_until_halted(&f);
	assert_int_equal(fixture_vm(&f, KVM_IRQ_LINE, &level), 0);
	finish(&r, 0, KVM_EXIT_IO);
	level.level = 0;
	assert_int_equal(fixture_vm(&f, KVM_IRQ_LINE, &level), 0);
	load_waiter(&f);
	irqfd.fd = (uint32_t)fd;
	assert_int_equal(fixture_vm(&f, KVM_IRQFD, &irqfd), 0);
	start(&r, &f);
	wait_until_halted(&f);
	eventfd_write(fd, 1);
	finish(&r, 0, KVM_EXIT_IO);
	fixture_close(&f);
	close(fd);
}

/* The vCPU's lock is taken by KVM_RUN: an NMI comes by the local APIC of another. */
static void nmi_wakes(void **state)
{
	struct vm_fixture f;
	struct runner r;
	struct kvm_msi msi = {.address_lo = 0xfee00000, .data = 4 << 8};

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	load_waiter(&f);
	start(&r, &f);
	wait_until_halted(&f);
	assert_int_equal(fixture_vm(&f, KVM_SIGNAL_MSI, &msi), 1);
	finish(&r, 0, KVM_EXIT_IO);
	fixture_close(&f);
}

static void slots_change_under_a_running_vcpu(void **state)
{
	struct vm_fixture f;
	struct runner r;
	uint8_t *extra = mmap(NULL, 0x10000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	LOAD(&f, 0xbb, 0x00, 0x20,    /* mov bx, 2000h */
	     0xff, 0x07, 0xeb, 0xfc); /* inc word [bx]; jmp to it */
	start(&r, &f);
	wait_until_running(&f);
	for (int i = 0; i < 50; i++) {
		assert_int_equal(fixture_slot(&f, 1, 0, 0x200000, 0x10000, extra), 0);
		assert_int_equal(fixture_slot(&f, 0, i & 1 ? 0 : KVM_MEM_LOG_DIRTY_PAGES, 0, FIXTURE_RAM, f.ram), 0);
		assert_int_equal(fixture_slot(&f, 1, 0, 0, 0, NULL), 0);
	}
	softkvm_kick(f.vcpu[0]);
	finish(&r, -EINTR, KVM_EXIT_INTR);
	assert_int_equal(fixture_slot(&f, 0, 0, 0, 0, NULL), 0); /* its RAM goes: the next instruction is not there */
	assert_int_equal(fixture_slot(&f, 0, 0, 0x800000, FIXTURE_RAM, f.ram), 0);
	assert_int_equal(fixture_run(&f), KVM_EXIT_INTERNAL_ERROR);
	fixture_close(&f);
	munmap(extra, 0x10000);
}

static void doorbells_change_under_a_running_vcpu(void **state)
{
	struct vm_fixture f;
	struct runner r;
	int fd = eventfd(0, EFD_NONBLOCK), other = eventfd(0, EFD_NONBLOCK);
	struct kvm_ioeventfd ring = {.addr = 0x80, .len = 1, .fd = fd, .flags = KVM_IOEVENTFD_FLAG_PIO};
	struct kvm_ioeventfd aside = {.addr = 0x90, .len = 1, .fd = other, .flags = KVM_IOEVENTFD_FLAG_PIO};
	uint64_t count = 0;

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	LOAD(&f, 0xe6, 0x80, 0xeb, 0xfc); /* out 80h, al; jmp to it */
	assert_int_equal(fixture_vm(&f, KVM_IOEVENTFD, &ring), 0);
	start(&r, &f);
	wait_until_running(&f);
	for (int i = 0; i < 50; i++) {
		aside.flags = KVM_IOEVENTFD_FLAG_PIO;
		assert_int_equal(fixture_vm(&f, KVM_IOEVENTFD, &aside), 0);
		aside.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
		assert_int_equal(fixture_vm(&f, KVM_IOEVENTFD, &aside), 0);
	}
	ring.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
	assert_int_equal(fixture_vm(&f, KVM_IOEVENTFD, &ring), 0);
	finish(&r, 0, KVM_EXIT_IO); /* nobody takes it any more */
	assert_int_equal(read(fd, &count, sizeof(count)), sizeof(count));
	assert_int_not_equal(count, 0);
	fixture_close(&f);
	close(fd);
	close(other);
}

static void memory_is_written_by_a_device(void **state)
{
	struct vm_fixture f;
	struct runner r;

	if (SANITIZES_THREADS) { /* it would report the guest's own race: code is read while it is written */
		print_message("a race on guest memory is the point here\n");
		skip();
	}
	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	LOAD(&f, 0x90, 0xeb, 0xfd); /* nop; jmp to it */
	start(&r, &f);
	wait_until_running(&f);
	sleep_ms(2);
	__atomic_store_n(f.ram + FIXTURE_CODE, 0x06, __ATOMIC_SEQ_CST); /* push es: harmless */
	softkvm_memory_written(f.vm, FIXTURE_CODE, 1);
	__atomic_store_n(f.ram + FIXTURE_CODE, 0xf4, __ATOMIC_SEQ_CST); /* hlt */
	softkvm_memory_written(f.vm, FIXTURE_CODE, 1);
	wait_until_halted(&f);
	softkvm_kick(f.vcpu[0]);
	finish(&r, -EINTR, KVM_EXIT_INTR);
	fixture_close(&f);
}

static void on_signal(int sig)
{
	softkvm_signal_arrived(SIGUSR1);
}

static void install_handler(void)
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

	sigaction(SIGUSR1, &action, NULL);
}

/* A handler that does what a preloading library's wrapper does. */
static void signals_end_kvm_run(void **state)
{
	struct vm_fixture f;
	struct runner r;

	if (fixture_tsan_disturbs("signals"))
		skip();
	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	install_handler();
	LOAD(&f, 0xeb, 0xfe);
	start(&r, &f);
	wait_until_running(&f);
	while (!r.done) { /* it may come before KVM_RUN has noted whose thread it is on */
		pthread_kill(r.thread, SIGUSR1);
		sleep_ms(2);
	}
	finish(&r, -EINTR, KVM_EXIT_INTR);
	LOAD(&f, 0xf4);
	start(&r, &f);
	wait_until_halted(&f);
	pthread_kill(r.thread, SIGUSR1);
	finish(&r, -EINTR, KVM_EXIT_INTR);
	fixture_close(&f);
}

/* Blocked outside, let through inside: KVM_RUN does not begin while it is pending, and it stays pending. */
static void signal_mask_applies_inside(void **state)
{
	struct vm_fixture f;
	const struct timespec at_once = {0};
	uint64_t none = 0;
	sigset_t usr1;
	struct {
		struct kvm_signal_mask header;
		uint8_t set[8];
	} __attribute__((packed)) mask = {.header.len = 8};

	fixture_open(&f, FIXTURE_IRQCHIP, 1);
	install_handler();
	LOAD(&f, 0xeb, 0xfe);
	memcpy(mask.set, &none, 8);
	assert_int_equal(fixture_vcpu(&f, KVM_SET_SIGNAL_MASK, &mask), 0);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &usr1, NULL);
	pthread_kill(pthread_self(), SIGUSR1);
	assert_int_equal(fixture_vcpu(&f, KVM_RUN, NULL), -EINTR);
	assert_int_equal(sigtimedwait(&usr1, NULL, &at_once), SIGUSR1);
	pthread_sigmask(SIG_UNBLOCK, &usr1, NULL);
	mask.header.len = 4;
	assert_int_equal(fixture_vcpu(&f, KVM_SET_SIGNAL_MASK, &mask), -EINVAL);
	assert_int_equal(fixture_vcpu(&f, KVM_SET_SIGNAL_MASK, NULL), 0);
	fixture_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kick_ends_a_loop),
		cmocka_unit_test(kick_ends_a_halt),
		cmocka_unit_test(interrupts_wake),
		cmocka_unit_test(nmi_wakes),
		cmocka_unit_test(slots_change_under_a_running_vcpu),
		cmocka_unit_test(doorbells_change_under_a_running_vcpu),
		cmocka_unit_test(memory_is_written_by_a_device),
		cmocka_unit_test(signals_end_kvm_run),
		cmocka_unit_test(signal_mask_applies_inside),
	};

	return RUN_ON_ENGINES(tests);
}
