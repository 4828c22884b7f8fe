/* SPDX-License-Identifier: BSD-2-Clause */
/* guise: one program, one file per subcommand (see `commands`). */
#include <stdio.h>

int main(void)
{
	puts("guise");
	return 0;
}
