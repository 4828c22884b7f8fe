/* SPDX-License-Identifier: BSD-2-Clause */
#define SFX sc
#include "fpk.h"
