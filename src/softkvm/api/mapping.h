/* SPDX-License-Identifier: BSD-2-Clause */
/* Mappings under memory slots, within api/: see mapping.c. The calls for others are in softkvm.h. */
#ifndef GUISE_SOFTKVM_API_MAPPING_H
#define GUISE_SOFTKVM_API_MAPPING_H

#include <stdbool.h>

struct mem_slot;
struct vm;

/* The VM begins or ends: without vm->lock. */
void mapping_add_vm(struct vm *vm);
void mapping_del_vm(struct vm *vm);
/* A slot was just made, and no vCPU has seen it: find its pages that are not mapped. */
void mapping_check_slot(struct mem_slot *slot);
/* vcpu.c: is the calling thread inside KVM_RUN, in a signal handler, then? */
bool is_inside_run(void);

#endif
