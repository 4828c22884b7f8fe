/* SPDX-License-Identifier: BSD-2-Clause */
#define SFX avx
#include "fpk.h"
