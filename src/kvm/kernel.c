/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * /dev/kvm of the kernel. A kick sets immediate_exit, which a KVM_RUN about to start sees, and sends a signal with an
 * empty handler, which ends one that has started; together they miss no moment.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kvm/binding.h"

static int kick_signal(void)
{
	return SIGRTMIN;
}

static void kicked(int signal)
{
}

static void install_handler(void)
{
	struct sigaction action = {.sa_handler = kicked}; /* no SA_RESTART: KVM_RUN must return */

	sigaction(kick_signal(), &action, NULL);
}

static void explain(int err, char *why, size_t size)
{
	const char *hint = "";

	if (err == EACCES || err == EPERM)
		hint = "; join group kvm or ask for access";
	else if (err == ENOENT || err == ENODEV || err == ENXIO)
		hint = "; no hardware virtualization here, or modules kvm-intel/kvm-amd not loaded";
	snprintf(why, size, "/dev/kvm: %s%s", strerror(err), hint);
}

int kvm_kernel_open(union kvm_handle *handle, char *why, size_t why_size)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC), version;

	if (fd < 0) {
		int err = errno;

		explain(err, why, why_size);
		return -err;
	}
	version = ioctl(fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION) {
		snprintf(why, why_size, "/dev/kvm: API version %d, not %d", version, KVM_API_VERSION);
		close(fd);
		return -ENOTSUP;
	}
	install_handler();
	handle->fd = fd;
	return 0;
}

static long kernel_ioctl(union kvm_handle handle, unsigned long request, void *arg, union kvm_handle *child)
{
	long result = ioctl(handle.fd, request, arg);

	if (result < 0)
		return -errno;
	if (request == KVM_CREATE_VM || request == KVM_CREATE_VCPU) {
		child->fd = result;
		fcntl(child->fd, F_SETFD, FD_CLOEXEC);
		return 0;
	}
	return result;
}

static struct kvm_run *kernel_map(union kvm_handle vcpu, size_t size)
{
	void *run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu.fd, 0);

	return run == MAP_FAILED ? NULL : run;
}

static void kernel_unmap(struct kvm_run *run, size_t size)
{
	munmap(run, size);
}

static void unblock_kick(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, kick_signal());
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static int kernel_run(struct kvm_vcpu *vcpu)
{
	static _Thread_local int tid;
	int err;

	if (!tid) {
		tid = syscall(SYS_gettid);
		unblock_kick();
	}
	atomic_store(&vcpu->tid, tid); /* before immediate_exit is looked at: pairs with kernel_kick() */
	err = ioctl(vcpu->handle.fd, KVM_RUN, 0) < 0 ? -errno : 0;
	atomic_store(&vcpu->tid, 0);
	if (err == -EINTR)
		__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_RELAXED);
	return err;
}

static void kernel_kick(struct kvm_vcpu *vcpu)
{
	int tid;

	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	tid = atomic_load(&vcpu->tid);
	if (tid)
		syscall(SYS_tgkill, getpid(), tid, kick_signal());
}

static void kernel_memory_written(union kvm_handle vm, uint64_t gpa, uint64_t len)
{
}

static void kernel_close(union kvm_handle handle)
{
	close(handle.fd);
}

const struct kvm_binding kvm_binding_kernel = {
	.ioctl = kernel_ioctl,
	.map_run_area = kernel_map,
	.unmap_run_area = kernel_unmap,
	.run = kernel_run,
	.kick = kernel_kick,
	.memory_written = kernel_memory_written,
	.close = kernel_close,
};
