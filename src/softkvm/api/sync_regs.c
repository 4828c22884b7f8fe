/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * KVM_CAP_SYNC_REGS: registers that travel in the run area with KVM_RUN, in and out, as KVM_SET_REGS and its like would
 * bring them.
 */
#include <errno.h>

#include "softkvm/api/state_rows.h"

/* One kind of registers, if they are dirty; then they are not any more. */
static int bring(struct softkvm *h, uint64_t *dirty, uint64_t kind, ioctl_handler *set, void *data)
{
	long ret;

	if (!(*dirty & kind))
		return 0;
	pthread_mutex_lock(&h->vm->lock); /* as ioctl.c for these requests */
	ret = set(h, data, 0, NULL);
	pthread_mutex_unlock(&h->vm->lock);
	if (ret)
		return -EINVAL;
	*dirty &= ~kind;
	return 0;
}

int sync_regs_in(struct softkvm *h)
{
	struct kvm_run *run = h->vcpu->run;
	uint64_t dirty = run->kvm_dirty_regs;
	struct kvm_sync_regs regs;
	int err;

	if ((run->kvm_valid_regs | dirty) & ~(uint64_t)KVM_SYNC_X86_VALID_FIELDS)
		return -EINVAL;
	if (!dirty)
		return 0;
	regs = run->s.regs; /* once: the user may write there */
	err = bring(h, &dirty, KVM_SYNC_X86_REGS, set_regs, &regs.regs);
	if (!err)
		err = bring(h, &dirty, KVM_SYNC_X86_SREGS, set_sregs, &regs.sregs);
	if (!err)
		err = bring(h, &dirty, KVM_SYNC_X86_EVENTS, set_vcpu_events, &regs.events);
	run->kvm_dirty_regs = dirty;
	return err;
}

void sync_regs_out(struct softkvm *h)
{
	struct kvm_run *run = h->vcpu->run;
	struct kvm_vcpu_events events = {0};

	if (run->kvm_valid_regs & KVM_SYNC_X86_REGS)
		get_regs(h, &run->s.regs.regs, 0, NULL);
	if (run->kvm_valid_regs & KVM_SYNC_X86_SREGS)
		get_sregs(h, &run->s.regs.sregs, 0, NULL);
	if (run->kvm_valid_regs & KVM_SYNC_X86_EVENTS) {
		get_vcpu_events(h, &events, 0, NULL);
		run->s.regs.events = events;
	}
}
