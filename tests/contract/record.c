// SPDX-License-Identifier: BSD-2-Clause
#include "record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

int kvm_fd;
const char *const irqchip_names[] = {"none", "split", "full"};

void say(const char *key, const char *format, ...)
{
	va_list args;

	printf("%s = ", key);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
}

int call_number(int fd, unsigned long request, unsigned long arg)
{
	int ret = ioctl(fd, request, arg);

	return ret < 0 ? -errno : ret;
}

int call(int fd, unsigned long request, const void *arg)
{
	return call_number(fd, request, (unsigned long)arg);
}

void say_result(const char *key, int result)
{
	const char *name = result < 0 ? strerrorname_np(-result) : NULL;

	if (name)
		say(key, "-%s", name);
	else
		say(key, "%d", result);
}

_Noreturn void give_up(const char *what)
{
	printf("cannot go on: %s: %s\n", what, strerror(errno));
	exit(1);
}

int new_vm(enum irqchip irqchip)
{
	struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};
	int vm = call_number(kvm_fd, KVM_CREATE_VM, 0), err = 0;

	if (vm < 0)
		give_up("KVM_CREATE_VM");
	call_number(vm, KVM_SET_TSS_ADDR, 0xfffbd000);
	if (irqchip == SPLIT_IRQCHIP)
		err = call(vm, KVM_ENABLE_CAP, &split);
	else if (irqchip == FULL_IRQCHIP)
		err = call_number(vm, KVM_CREATE_IRQCHIP, 0);
	if (err)
		give_up("irqchip");
	return vm;
}

static void give_cpuid(int vcpu)
{
	struct kvm_cpuid2 *list = calloc(1, sizeof(*list) + 256 * sizeof(struct kvm_cpuid_entry2));

	list->nent = 256;
	if (call(kvm_fd, KVM_GET_SUPPORTED_CPUID, list) < 0 || call(vcpu, KVM_SET_CPUID2, list) < 0)
		give_up("CPUID");
	free(list);
}

struct machine machine_new(enum irqchip irqchip)
{
	struct machine m = {.vm = new_vm(irqchip)};
	struct kvm_userspace_memory_region region = {.memory_size = RAM_SIZE};

	m.ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (m.ram == MAP_FAILED)
		give_up("mmap");
	for (unsigned vector = 0; vector < 256; vector++)
		memcpy(m.ram + 4 * vector, &(uint32_t){END_GPA}, 4);
	m.ram[END_GPA] = 0xf4;
	region.userspace_addr = (uintptr_t)m.ram;
	if (call(m.vm, KVM_SET_USER_MEMORY_REGION, &region))
		give_up("KVM_SET_USER_MEMORY_REGION");
	m.vcpu = call_number(m.vm, KVM_CREATE_VCPU, 0);
	if (m.vcpu < 0)
		give_up("KVM_CREATE_VCPU");
	m.run = mmap(NULL, (size_t)call_number(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED,
		     m.vcpu, 0);
	if (m.run == MAP_FAILED)
		give_up("mmap of a vCPU");
	give_cpuid(m.vcpu);
	return m;
}

void machine_free(struct machine *m)
{
	munmap(m->run, (size_t)call_number(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0));
	close(m->vcpu);
	close(m->vm);
	munmap(m->ram, RAM_SIZE);
}

void machine_load(struct machine *m, const void *code, unsigned size)
{
	struct kvm_regs regs = {.rip = CODE_GPA, .rsp = STACK_GPA, .rflags = 2};
	struct kvm_sregs s;

	memcpy(m->ram + CODE_GPA, code, size);
	if (call(m->vcpu, KVM_GET_SREGS, &s))
		give_up("KVM_GET_SREGS");
	s.cs.base = s.cs.selector = 0;
	if (call(m->vcpu, KVM_SET_SREGS, &s) || call(m->vcpu, KVM_SET_REGS, &regs))
		give_up("registers");
}

int machine_run(struct machine *m)
{
	return call_number(m->vcpu, KVM_RUN, 0);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm_fd < 0)
		give_up("/dev/kvm");
	alarm(500); /* a guest that does not exit */
	record_system();
	record_requests();
	record_rules();
	record_state();
	record_exits();
	record_msrs();
	record_ways();
	record_signals();
	record_mappings();
	puts("all recorded");
	return 0;
}
