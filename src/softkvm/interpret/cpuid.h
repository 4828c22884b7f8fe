/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What CPUID offers, and what follows for the vCPU.
 */
#ifndef GUISE_SOFTKVM_INTERPRET_CPUID_H
#define GUISE_SOFTKVM_INTERPRET_CPUID_H

#include <linux/kvm.h>
#include "softkvm/vcpu.h"

/* All that this host's engine can offer, into a list with room for list->nent entries: 0 or -E2BIG. */
int cpuid_supported(struct kvm_cpuid2 *list);
/* v->cpuid was replaced: derive v->feature and all else that depends on it. 0/-errno. */
int cpuid_changed(struct vcpu *v);

#endif
