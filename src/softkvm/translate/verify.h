/* SPDX-License-Identifier: BSD-2-Clause */
/* What the translator does differently in lock-step: see verify.c. */
#ifndef GUISE_TRANSLATE_VERIFY_H
#define GUISE_TRANSLATE_VERIFY_H

#include "x86/insn.h"

/* Instructions that cannot be executed twice: a trial ends before them. */
bool verify_is_apart(const struct insn *i);

#endif
