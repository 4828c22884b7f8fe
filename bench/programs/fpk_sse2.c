/* SPDX-License-Identifier: BSD-2-Clause */
#define SFX sse
#include "fpk.h"
