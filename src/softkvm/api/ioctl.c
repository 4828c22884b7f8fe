/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * From a handle and a request number to the function that does it.
 *
 * Every request that softkvm knows stands in one of four tables: system.c, vm.c, vcpu.c and state.c. A row says on which kind
 * of handle the request is valid, whether its struct is copied in and out (the size is in the request's number,
 * the direction there is not reliable), and whether the VM's lock is held. What has no row is -ENOTTY, as in the
 * kernel. Requests with a variable-size argument copy the rest themselves.
 *
 * Locks: a vCPU's ioctls run one at a time under vcpu_api.lock, KVM_RUN included, so they wait until the vCPU comes
 * out. Order: vcpu_api.lock, vm->lock, then irqchip/'s. An ioctl that looks at guest memory holds vm->lock so that the
 * slots stay (a vCPU inside KVM_RUN is protected by vm_stop() instead).
 */
#include "softkvm/api/handle.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/log.h"
#include "softkvm/api/kick.h"
#include "softkvm/api/usercopy.h"
#include "softkvm/engine.h"
#include "softkvm/mmu/mmu.h"

enum { ARG_MAX_SIZE = 4096 }; /* struct kvm_xsave */

static const struct ioctl_row *const tables[] = {vcpu_ioctls, vm_ioctls, state_ioctls, system_ioctls};

static const struct ioctl_row *find_row(enum handle_kind kind, unsigned long request)
{
	for (unsigned t = 0; t < sizeof(tables) / sizeof(*tables); t++)
		for (const struct ioctl_row *row = tables[t]; row->handler; row++)
			if (row->request == request && row->kinds & kind)
				return row;
	return NULL;
}

static long call_locked(const struct ioctl_row *row, struct softkvm *h, void *data, uintptr_t arg,
			struct softkvm **child)
{
	long ret;

	if (h->kind == HANDLE_VCPU)
		pthread_mutex_lock(&h->vcpu->api->lock);
	if (row->flags & LOCK_VM)
		pthread_mutex_lock(&h->vm->lock);
	ret = row->handler(h, data, arg, child);
	if (row->flags & LOCK_VM)
		pthread_mutex_unlock(&h->vm->lock);
	if (h->kind == HANDLE_VCPU)
		pthread_mutex_unlock(&h->vcpu->api->lock);
	return ret;
}

static long call_with_copy(const struct ioctl_row *row, struct softkvm *h, uintptr_t arg, struct softkvm **child)
{
	size_t size = _IOC_SIZE(row->request);
	uint8_t data[ARG_MAX_SIZE] __attribute__((aligned(64)));
	long ret;

	if (row->flags & ARG_IN)
		ret = copy_in(data, arg, size);
	else
		ret = (memset(data, 0, size), 0);
	if (!ret)
		ret = call_locked(row, h, data, arg, child);
	if (ret >= 0 && row->flags & ARG_OUT && copy_out(arg, data, size))
		ret = -EFAULT;
	return ret;
}

long softkvm_ioctl(struct softkvm *h, unsigned long request, uintptr_t arg, struct softkvm **child)
{
	const struct ioctl_row *row = find_row(h->kind, request & 0xffffffff);

	if (!row) {
		log_debug("softkvm: no ioctl %#lx on this kind of handle", request);
		return h->kind == HANDLE_VM ? -ENOTTY : -EINVAL; /* as the kernel's KVM */
	}
	if (row->flags & ARG_ZERO && arg)
		return -EINVAL;
	if (row->flags & (ARG_IN | ARG_OUT))
		return call_with_copy(row, h, arg, child);
	return call_locked(row, h, NULL, arg, child);
}

/* --- handles --- */

/* The engines by name; the first is the default. */
static const struct {
	const char *name;
	const struct engine *engine;
} engines[] = {
	{"translate", &engine_translate},
	{"interpret", &engine_interpret},
	{"verify", &engine_verify},
};

int softkvm_open(const char *engine, struct softkvm **system)
{
	struct softkvm *h;

	for (unsigned i = 0; i < sizeof(engines) / sizeof(*engines); i++) {
		if (engine && strcmp(engine, engines[i].name))
			continue;
		h = calloc(1, sizeof(*h));
		if (!h)
			return -ENOMEM;
		h->kind = HANDLE_SYSTEM;
		h->engine = engines[i].engine;
		*system = h;
		return 0;
	}
	return -ENOENT;
}

void softkvm_close(struct softkvm *h)
{
	if (!h)
		return;
	if (h->vm)
		vm_put(h->vm);
	free(h);
}

bool softkvm_is_system(const struct softkvm *h)
{
	return h->kind == HANDLE_SYSTEM;
}

void *softkvm_run_area(struct softkvm *h)
{
	return h->kind == HANDLE_VCPU ? h->vcpu->run : NULL;
}

int softkvm_run_fd(struct softkvm *h)
{
	return h->kind == HANDLE_VCPU ? h->vcpu->api->run_fd : -EINVAL;
}

int softkvm_ring_fd(struct softkvm *h)
{
	return h->vm ? h->vm->coalesced_ring_fd : -EINVAL;
}

void softkvm_kick(struct softkvm *h)
{
	if (h->kind == HANDLE_VCPU)
		vcpu_kick(h->vcpu, VREQ_EXIT);
}

void softkvm_memory_written(struct softkvm *h, uint64_t gpa, uint64_t len)
{
	if (!h->vm)
		return;
	pthread_mutex_lock(&h->vm->lock); /* slots stay as they are */
	code_written(h->vm, gpa, len);
	pthread_mutex_unlock(&h->vm->lock);
}
