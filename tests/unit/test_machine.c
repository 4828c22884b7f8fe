/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The whole machine with kernels of a few bytes: every way a run can end, and what the guest finds. Runs on each engine of
 * softkvm, or on the one that GUISE_TEST_ENGINE names ("kvm").
 */
#include "base/bytes.h"
#include "base/log.h"
#include "base/thread.h"
#include "machine/machine.h"

#include <elf.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

enum { LOAD = 0x1000000, CODE_AT = 0x1000 };

static char kernel_path[] = "/tmp/guise-kernel-XXXXXX", console_path[] = "/tmp/guise-output-XXXXXX", console_spec[64];
static const enum kvm_engine engines[] = {KVM_ENGINE_INTERPRET, KVM_ENGINE_TRANSLATE};
static unsigned n_engines = 2;
static bool on_kernel;

static int set_up(void **state)
{
	const char *asked = getenv("GUISE_TEST_ENGINE");

	on_kernel = asked && !strcmp(asked, "kvm");
	n_engines = on_kernel ? 1 : 2;
	log_set_level(LOG_ERROR);
	close(mkstemp(kernel_path));
	close(mkstemp(console_path));
	snprintf(console_spec, sizeof(console_spec), "file:%s", console_path);
	return 0;
}

static int tear_down(void **state)
{
	unlink(kernel_path);
	unlink(console_path);
	return 0;
}

static void write_kernel(const uint8_t *code, size_t size)
{
	static uint8_t file[CODE_AT + 4096];
	Elf64_Ehdr header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, 1}, .e_type = ET_EXEC,
			     .e_machine = EM_X86_64, .e_version = 1, .e_entry = LOAD, .e_phoff = sizeof(header),
			     .e_ehsize = sizeof(header), .e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 1};
	Elf64_Phdr ph = {.p_type = PT_LOAD, .p_offset = CODE_AT, .p_paddr = LOAD, .p_vaddr = LOAD, .p_filesz = size,
			 .p_memsz = 4096};
	int fd = open(kernel_path, O_WRONLY | O_TRUNC);

	memcpy(file, &header, sizeof(header));
	memcpy(file + sizeof(header), &ph, sizeof(ph));
	memcpy(file + CODE_AT, code, size);
	assert_int_equal(write(fd, file, CODE_AT + size), CODE_AT + size);
	close(fd);
}

static struct machine *machine_of(const uint8_t *code, size_t size, unsigned engine)
{
	struct machine_config config = {.name = "test", .kernel = kernel_path, .console = console_spec,
					.mem_size = 32 << 20, .cpu_count = 2, .debug_exit = true,
					.engine = on_kernel ? KVM_ENGINE_KERNEL : engines[engine]};
	struct machine *machine;
	char error[400];

	write_kernel(code, size);
	if (machine_new(&config, &machine, error, sizeof(error)))
		fail_msg("%s", error);
	return machine;
}

static void ends_on(unsigned engine, const uint8_t *code, size_t size, enum machine_end end, int status)
{
	struct machine *machine = machine_of(code, size, engine);
	struct machine_result result;

	machine_run(machine, &result);
	machine_free(machine);
	if (result.end != end || result.status != status)
		fail_msg("engine %u ended with %d (status %d, '%s'), not %d (status %d)", engine, result.end,
			 result.status, result.text, end, status);
}

/* On every engine: the code ends the run so, with that status. */
#define ENDS(end, status, ...)                                                                                    \
	do {                                                                                                      \
		static const uint8_t code_[] = {__VA_ARGS__};                                                     \
		for (unsigned e_ = 0; e_ < n_engines; e_++)                                                       \
			ends_on(e_, code_, sizeof(code_), end, status);                                           \
	} while (0)

static void powers_off(void **state)
{
	/* mov dx, 604h; mov ax, 3400h (S5, SLP_EN); out dx, ax; jmp $ */
	ENDS(MACHINE_POWER_OFF, 0, 0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x34, 0x66, 0xef, 0xeb, 0xfe);
}

static void reboots(void **state)
{
	/* mov dx, cf9h; mov al, 6; out dx, al; jmp $ */
	ENDS(MACHINE_REBOOT, 10, 0x66, 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xeb, 0xfe);
	/* mov al, feh; out 64h, al; jmp $ */
	ENDS(MACHINE_REBOOT, 10, 0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe);
	/* mov al, 1; out 92h, al; jmp $ */
	ENDS(MACHINE_REBOOT, 10, 0xb0, 0x01, 0xe6, 0x92, 0xeb, 0xfe);
}

static void panics(void **state)
{
	/* mov dx, 505h; mov al, 1; out dx, al; jmp $ */
	ENDS(MACHINE_PANIC, 11, 0x66, 0xba, 0x05, 0x05, 0xb0, 0x01, 0xee, 0xeb, 0xfe);
}

static void faults_thrice(void **state)
{
	ENDS(MACHINE_TRIPLE_FAULT, 12, 0x0f, 0x0b); /* ud2, with an IDT of no entries */
	/* mov rax, 1 << 40; jmp rax: into nowhere */
	ENDS(MACHINE_TRIPLE_FAULT, 12, 0x48, 0xb8, 0, 0, 0, 0, 0, 1, 0, 0, 0xff, 0xe0);
}

static void exits_with_a_code(void **state)
{
	/* mov al, 21h; out f4h, al; jmp $ */
	ENDS(MACHINE_DEBUG_EXIT, 0x43, 0xb0, 0x21, 0xe6, 0xf4, 0xeb, 0xfe);
}

static void finds_the_host_bridge(void **state)
{
	/* mov ebx, e0000000h; mov eax, [rbx]; cmp eax, 00081b36h; setne al; out f4h, al; jmp $ */
	ENDS(MACHINE_DEBUG_EXIT, 1, 0xbb, 0, 0, 0, 0xe0, 0x8b, 0x03, 0x3d, 0x36, 0x1b, 0x08, 0x00, 0x0f, 0x95, 0xc0, 0xe6,
	     0xf4, 0xeb, 0xfe);
	/* mov ebx, d0000000h; mov eax, [rbx]; inc eax; setne al; out f4h, al; jmp $: nothing is there */
	ENDS(MACHINE_DEBUG_EXIT, 1, 0xbb, 0, 0, 0, 0xd0, 0x8b, 0x03, 0xff, 0xc0, 0x0f, 0x95, 0xc0, 0xe6, 0xf4, 0xeb, 0xfe);
}

static void finds_boot_params(void **state)
{
	/* cmp dword [rsi + 202h], "HdrS"; setne al; out f4h, al; jmp $ */
	ENDS(MACHINE_DEBUG_EXIT, 1, 0x81, 0xbe, 0x02, 0x02, 0, 0, 'H', 'd', 'r', 'S', 0x0f, 0x95, 0xc0, 0xe6, 0xf4, 0xeb,
	     0xfe);
}

static void writes_to_the_console(void **state)
{
	/* mov dx, 3f8h; lea rsi, [rip + 10]; mov ecx, 6; rep outsb; mov al, 0; out f4h, al; jmp $; "hello\n" */
	static const uint8_t code[] = {0x66, 0xba, 0xf8, 0x03, 0x48, 0x8d, 0x35, 0x0d, 0, 0, 0, 0xb9, 6, 0, 0, 0, 0xf3, 0x6e,
				       0xb0, 0, 0xe6, 0xf4, 0xeb, 0xfe, 'h', 'e', 'l', 'l', 'o', '\n'};
	char text[8] = "";

	for (unsigned e = 0; e < n_engines; e++) {
		int fd;

		ends_on(e, code, sizeof(code), MACHINE_DEBUG_EXIT, 1);
		fd = open(console_path, O_RDONLY);
		assert_int_equal(read(fd, text, sizeof(text)), 6);
		assert_memory_equal(text, "hello\n", 6);
		close(fd);
	}
}

static void *quit_soon(void *opaque)
{
	nanosleep(&(struct timespec){0, 20000000}, NULL);
	machine_quit(opaque);
	return NULL;
}

/* The guest neither listens nor ends: spinning, halted for ever, or in a loop of device accesses. */
static void is_ended_from_outside(void **state)
{
	static const uint8_t spin[] = {0xeb, 0xfe}, halt[] = {0xf4, 0xeb, 0xfd}, poll[] = {0xe4, 0x64, 0xeb, 0xfc};
	static const struct {
		const uint8_t *code;
		size_t size;
	} guests[] = {{spin, sizeof(spin)}, {halt, sizeof(halt)}, {poll, sizeof(poll)}};

	for (unsigned k = 0; k < 3 * n_engines; k++) {
		struct machine *machine = machine_of(guests[k / n_engines].code, guests[k / n_engines].size, k % n_engines);
		struct machine_result result;
		pthread_t thread;

		assert_int_equal(thread_start(&thread, "test", "quit", quit_soon, machine), 0);
		machine_run(machine, &result);
		pthread_join(thread, NULL);
		machine_free(machine);
		assert_int_equal(result.end, MACHINE_QUIT);
		assert_int_equal(result.status, 14);
	}
}

static void says_why_it_cannot_start(void **state)
{
	struct machine_config config = {.name = "test", .kernel = "/no/such/kernel", .console = "none",
					.mem_size = 32 << 20, .cpu_count = 1,
					.engine = on_kernel ? KVM_ENGINE_KERNEL : KVM_ENGINE_INTERPRET};
	struct machine *machine;
	char error[400];

	assert_true(machine_new(&config, &machine, error, sizeof(error)) < 0);
	assert_non_null(strstr(error, "/no/such/kernel: No such file"));
	config.kernel = "/tmp";
	assert_true(machine_new(&config, &machine, error, sizeof(error)) < 0);
	assert_non_null(strstr(error, "is a directory"));
	write_kernel((const uint8_t *)"\xf4", 1);
	config.kernel = kernel_path;
	config.initrd = "/no/such/initrd";
	assert_true(machine_new(&config, &machine, error, sizeof(error)) < 0);
	assert_non_null(strstr(error, "/no/such/initrd"));
	config.initrd = NULL;
	config.console = "teletype";
	assert_true(machine_new(&config, &machine, error, sizeof(error)) < 0);
	assert_non_null(strstr(error, "teletype"));
	config.console = "none";
	config.mem_dir = "/no/such/dir";
	assert_true(machine_new(&config, &machine, error, sizeof(error)) < 0);
	assert_non_null(strstr(error, "memory"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(powers_off),		 cmocka_unit_test(reboots),
		cmocka_unit_test(panics),		 cmocka_unit_test(faults_thrice),
		cmocka_unit_test(exits_with_a_code),	 cmocka_unit_test(finds_the_host_bridge),
		cmocka_unit_test(finds_boot_params),	 cmocka_unit_test(writes_to_the_console),
		cmocka_unit_test(is_ended_from_outside), cmocka_unit_test(says_why_it_cannot_start),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
