/* SPDX-License-Identifier: BSD-2-Clause */
/* Command-line options: every kind, both spellings, and what is refused with which words. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/options.h"

static struct {
	bool flag;
	const char *text;
	uint64_t size;
	unsigned number, choice;
} got;

static const char *const choices[] = {"red", "green", NULL};

static const struct option_def table[] = {
	{.name = "flag", .kind = OPTION_FLAG, .value = &got.flag},
	{.name = "text", .kind = OPTION_STRING, .value = &got.text, .arg = "T"},
	{.name = "size", .kind = OPTION_SIZE, .value = &got.size, .arg = "S"},
	{.name = "number", .kind = OPTION_UINT, .value = &got.number, .arg = "N", .min = 1, .max = 64},
	{.name = "choice", .kind = OPTION_CHOICE, .value = &got.choice, .arg = "C", .choices = choices},
	{0},
};

static char error[200];

static int parse(const char *a, const char *b, const char *c)
{
	char *argv[] = {(char[]){"x"}, (char *)(uintptr_t)a, (char *)(uintptr_t)b, (char *)(uintptr_t)c, NULL};
	int argc = 1 + !!a + !!b + !!c;

	memset(&got, 0, sizeof(got));
	error[0] = 0;
	return options_parse(table, argc, argv, error, sizeof(error));
}

static void takes_both_spellings(void **state)
{
	assert_int_equal(parse("--text", "hello", "--flag"), 0);
	assert_string_equal(got.text, "hello");
	assert_true(got.flag);
	assert_int_equal(parse("--text=a=b", "--size=2G", "--number=64"), 0);
	assert_string_equal(got.text, "a=b");
	assert_true(got.size == 2ull << 30);
	assert_int_equal(got.number, 64);
	assert_int_equal(parse("--choice", "green", NULL), 0);
	assert_int_equal(got.choice, 1);
	assert_int_equal(parse("word", "--flag", "other"), 2);
	assert_int_equal(parse("--", "--flag", NULL), 1);
	assert_false(got.flag);
}

static void refuses(const char *a, const char *b, const char *words)
{
	assert_int_equal(parse(a, b, NULL), -EINVAL);
	if (!strstr(error, words))
		fail_msg("'%s' does not say '%s'", error, words);
}

static void says_what_is_wrong(void **state)
{
	refuses("--nothing", NULL, "unknown option --nothing");
	refuses("--text", NULL, "--text needs a value");
	refuses("--flag=1", NULL, "takes no value");
	refuses("--number", "0", "from 1 to 64");
	refuses("--number", "65", "from 1 to 64");
	refuses("--number", "-1", "from 1 to 64");
	refuses("--number", "4x", "from 1 to 64");
	refuses("--number", "99999999999999999999999", "from 1 to 64");
	refuses("--size", "lots", "not a size");
	refuses("--size", "12Q", "not a size");
	refuses("--size", "99999999999T", "not a size");
	refuses("--choice", "blue", "none of red green");
}

static void sizes(void **state)
{
	uint64_t v;

	assert_int_equal(parse_size("512", &v), 0);
	assert_int_equal(v, 512 << 20);
	assert_int_equal(parse_size("4k", &v), 0);
	assert_int_equal(v, 4096);
	assert_int_equal(parse_size("1GiB", &v), 0);
	assert_int_equal(v, 1 << 30);
	assert_int_equal(parse_size("", &v), -EINVAL);
	assert_int_equal(parse_size("-1", &v), -EINVAL);
	assert_int_equal(parse_size("1MM", &v), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(takes_both_spellings),
		cmocka_unit_test(says_what_is_wrong),
		cmocka_unit_test(sizes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
