/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * vCPU threads: run, look at why the guest was left, serve it, run again.
 *
 * A thread ends when the machine has ended (`is_ended`), which it looks at before each run; vcpus_stop() kicks those that
 * are inside. A kick is sticky, so it does not matter in which order the two see each other.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/thread.h"
#include "machine/cpu.h"
#include "machine/internal.h"

static void serve_pio(struct machine *m, struct kvm_run *run)
{
	uint8_t *data = (uint8_t *)run + run->io.data_offset;

	for (uint32_t k = 0; k < run->io.count; k++, data += run->io.size)
		bus_access(m->bus, BUS_PIO, run->io.port, run->io.size, run->io.direction == KVM_EXIT_IO_OUT, data);
}

static void serve_mmio(struct machine *m, struct kvm_run *run)
{
	bus_access(m->bus, BUS_MMIO, run->mmio.phys_addr, run->mmio.len, run->mmio.is_write, run->mmio.data);
}

static uint64_t rip_of(struct vcpu_thread *cpu)
{
	struct kvm_regs regs = {0};

	kvm_vcpu_get_regs(cpu->vcpu, &regs);
	return regs.rip;
}

static void engine_error(struct vcpu_thread *cpu, const char *what, unsigned long long detail)
{
	machine_end(cpu->machine, MACHINE_ENGINE_ERROR, MACHINE_ENGINE_ERROR,
		    "the engine gave up: %s %llu on vCPU %u at RIP %#llx", what, detail, cpu->index,
		    (unsigned long long)rip_of(cpu));
}

static void serve_system_event(struct machine *m, struct kvm_run *run)
{
	switch (run->system_event.type) {
	case KVM_SYSTEM_EVENT_SHUTDOWN:
		machine_end(m, MACHINE_POWER_OFF, 0, "the guest powered off");
		break;
	case KVM_SYSTEM_EVENT_RESET:
		machine_end(m, MACHINE_REBOOT, MACHINE_REBOOT, "the guest rebooted");
		break;
	default:
		machine_end(m, MACHINE_PANIC, MACHINE_PANIC, "the guest crashed (system event %u)", run->system_event.type);
	}
}

/* What the guest wants, or what is wrong with it. */
static void serve_exit(struct vcpu_thread *cpu)
{
	struct kvm_run *run = kvm_vcpu_run_area(cpu->vcpu);
	struct machine *m = cpu->machine;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		serve_pio(m, run);
		break;
	case KVM_EXIT_MMIO:
		serve_mmio(m, run);
		break;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
	case KVM_EXIT_HLT: /* only without interrupt controllers behind the contract */
	case KVM_EXIT_SET_TPR:
		break;
	case KVM_EXIT_SHUTDOWN:
		machine_end(m, MACHINE_TRIPLE_FAULT, MACHINE_TRIPLE_FAULT, "triple fault on vCPU %u at RIP %#llx",
			    cpu->index, (unsigned long long)rip_of(cpu));
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		serve_system_event(m, run);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		engine_error(cpu, "entry refused, hardware reason", run->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		engine_error(cpu, "internal error", run->internal.suberror);
		break;
	default:
		engine_error(cpu, "unexpected exit", run->exit_reason);
	}
}

static bool has_ended(struct vcpu_thread *cpu)
{
	return atomic_load_explicit(&cpu->machine->is_ended, memory_order_acquire); /* pairs with machine_end() */
}

static void *vcpu_main(void *opaque)
{
	struct vcpu_thread *cpu = opaque;

	while (!has_ended(cpu)) {
		int err = kvm_vcpu_run(cpu->vcpu);

		if (err == -EINTR || err == -EAGAIN)
			continue;
		cpu->exits++;
		if (err)
			engine_error(cpu, strerror(-err), -err);
		else
			serve_exit(cpu);
	}
	return NULL;
}

int vcpus_new(struct machine *m, char *error, size_t error_size)
{
	for (unsigned k = 0; k < m->config.cpu_count; k++) {
		struct vcpu_thread *cpu = &m->cpu[k];
		int err = kvm_vcpu_new(m->vm, k, &cpu->vcpu);

		if (!err)
			err = cpu_set_up(m->kvm, cpu->vcpu, k, m->config.cpu_count);
		if (err) {
			snprintf(error, error_size, "vCPU %u of %u: %s", k, m->config.cpu_count, strerror(-err));
			return err;
		}
		cpu->machine = m;
		cpu->index = k;
	}
	return 0;
}

int vcpus_start(struct machine *m)
{
	char role[16];

	for (unsigned k = 0; k < m->config.cpu_count; k++) {
		int err;

		snprintf(role, sizeof(role), "vcpu%u", k);
		err = thread_start(&m->cpu[k].thread, m->config.name, role, vcpu_main, &m->cpu[k]);
		if (err)
			return err;
		m->cpu[k].is_started = true;
	}
	return 0;
}

void vcpus_stop(struct machine *m)
{
	for (unsigned k = 0; k < m->config.cpu_count; k++)
		if (m->cpu[k].is_started)
			kvm_vcpu_kick(m->cpu[k].vcpu);
	for (unsigned k = 0; k < m->config.cpu_count; k++)
		if (m->cpu[k].is_started) {
			pthread_join(m->cpu[k].thread, NULL);
			log_debug("%s: vCPU %u left the guest %llu times", m->config.name, k,
				  (unsigned long long)m->cpu[k].exits);
		}
}

void vcpus_free(struct machine *m)
{
	for (unsigned k = 0; k < m->config.cpu_count; k++)
		kvm_vcpu_free(m->cpu[k].vcpu);
}
