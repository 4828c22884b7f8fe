/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Runs a fuzz target without libFuzzer:
 *
 *	fuzz_NAME FILE...	replay these inputs (a crash that was found, a seed)
 *	fuzz_NAME [DIR]		replay the files of DIR, then made-up inputs: mutations of those files when there are
 *				any, random bytes otherwise. The stream is the same on every run.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_SIZE = 1 << 16, MAX_SEEDS = 256, MADE_UP = 3000 };

struct input {
	uint8_t *data;
	size_t size;
};

static struct input seeds[MAX_SEEDS];
static unsigned n_seeds;
static uint64_t random_state = 0x9e3779b97f4a7c15;

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

/* Give the target a copy of its own of exactly `size` bytes, so that a sanitizer sees one byte too many. */
static void run_one(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);

	if (!copy)
		abort();
	if (size)
		memcpy(copy, data, size);
	LLVMFuzzerTestOneInput(copy, size);
	free(copy);
}

static int read_seed(const char *path)
{
	FILE *file = fopen(path, "rb");
	struct input *seed = &seeds[n_seeds];

	if (!file || n_seeds == MAX_SEEDS) {
		perror(path);
		return -1;
	}
	seed->data = malloc(MAX_SIZE);
	seed->size = seed->data ? fread(seed->data, 1, MAX_SIZE, file) : 0;
	fclose(file);
	n_seeds++;
	return 0;
}

static void read_seeds_of(const char *dir)
{
	struct dirent *entry;
	char path[4096];
	DIR *stream = opendir(dir);

	while (stream && (entry = readdir(stream))) {
		if (entry->d_name[0] == '.' || n_seeds == MAX_SEEDS)
			continue;
		snprintf(path, sizeof(path), "%s/%s", dir, entry->d_name);
		read_seed(path);
	}
	if (stream)
		closedir(stream);
}

static size_t make_up(uint8_t *data)
{
	const struct input *seed = n_seeds ? &seeds[next_random() % n_seeds] : NULL;
	size_t size = seed ? seed->size : next_random() % 512;

	for (size_t i = 0; i < size; i++)
		data[i] = seed ? seed->data[i] : (uint8_t)next_random();
	for (uint64_t n = seed ? next_random() % 8 : 0; n && size; n--)
		data[next_random() % size] = (uint8_t)next_random();
	if (size && !(next_random() % 8))
		size = next_random() % size;
	return size;
}

int main(int argc, char **argv)
{
	static uint8_t data[MAX_SIZE];
	struct stat status;
	int replay_only = 0;

	for (int i = 1; i < argc; i++) {
		if (!stat(argv[i], &status) && S_ISDIR(status.st_mode)) {
			read_seeds_of(argv[i]);
		} else if (argc > 2 || !stat(argv[i], &status)) {
			if (read_seed(argv[i]))
				return 1;
			replay_only = 1;
		}
	}
	for (unsigned i = 0; i < n_seeds; i++)
		run_one(seeds[i].data, seeds[i].size);
	for (int i = 0; i < MADE_UP && !replay_only; i++)
		run_one(data, make_up(data));
	printf("%u files and %d made-up inputs\n", n_seeds, replay_only ? 0 : MADE_UP);
	return 0;
}
