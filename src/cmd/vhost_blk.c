/* SPDX-License-Identifier: BSD-2-Clause */
/* guise vhost-blk: a disk for other VMMs, served over vhost-user. */
#include <errno.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "cmd/attach.h"
#include "cmd/backend.h"
#include "cmd/commands.h"
#include "devices/blk.h"

enum { DEFAULT_QUEUES = 16, MAX_RING_SIZE = 1024 };

static struct {
	struct backend_options backend;
	const char *file;
	bool read_only;
} options;

static const struct option_def table[] = {
	{.name = "blk-file", .kind = OPTION_STRING, .value = &options.file, .arg = "FILE", .help = "the image, instead of the last word"},
	{.name = "read-only", .kind = OPTION_FLAG, .value = &options.read_only, .help = "the same as ,ro"},
	BACKEND_OPTIONS(options.backend),
	{0},
};

static void print_help(void)
{
	puts("Usage: guise vhost-blk --socket-path PATH [OPTION...] IMAGE[,ro][,serial=TEXT][,queues=N]\n\n"
	     "Serves a raw image or a block device as a vhost-user-blk device to a VMM, such as\n"
	     "guise run --disk vhost-user=PATH or qemu-system-x86_64 -device vhost-user-blk-pci.\n"
	     "One front end at a time; it and the back end may be restarted at any time.\n");
	options_help(stdout, table);
}

static int serve(const struct machine_disk *image, struct vhost_serve_config *config)
{
	struct blk_config blk_config = {"vhost-blk", image->serial, image->n_queues ? image->n_queues : DEFAULT_QUEUES};
	struct memory memory;
	struct dma dma = {.mem = &memory};
	struct disk *disk;
	struct blk *blk;
	char why[256];
	int err = disk_open(image->path, image->read_only ? DISK_READONLY : 0, &disk, why, sizeof(why)), status;

	if (err) {
		log_error("vhost-blk: %s", why);
		return STATUS_FAILED;
	}
	memory_init(&memory);
	err = blk_new(disk, &dma, &blk_config, &blk);
	if (err) {
		log_error("vhost-blk: %s: %s", image->path, strerror(-err));
		disk_close(disk);
		return STATUS_FAILED;
	}
	config->n_rings = blk_config.n_queues;
	config->max_ring_size = MAX_RING_SIZE;
	config->protocol = 1ull << VHOST_USER_PROTOCOL_F_CONFIG | 1ull << VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD;
	status = backend_serve("vhost-blk", blk_device(blk), config);
	blk_free(blk);
	disk_close(disk);
	memory_deinit(&memory);
	return status;
}

int cmd_vhost_blk(int argc, char **argv)
{
	struct machine_config description = {0};
	struct option_list images = {.count = 1};
	struct vhost_serve_config config = {0};
	const char *wrong;
	char error[300];
	int n_words;

	if (backend_wants_capabilities(argc, argv)) {
		puts("{\n  \"type\": \"block\",\n  \"features\": [ \"read-only\", \"blk-file\" ]\n}");
		return STATUS_OK;
	}
	n_words = options_parse(table, argc, argv, error, sizeof(error));
	if (n_words < 0)
		return usage_error("vhost-blk", error);
	if (options.backend.help) {
		print_help();
		return STATUS_OK;
	}
	if (n_words > 1 || !n_words == !options.file)
		return usage_error("vhost-blk", "one IMAGE is needed");
	wrong = backend_socket(&options.backend, &config.socket);
	if (wrong)
		return usage_error("vhost-blk", wrong);
	if (options.backend.verbose)
		log_set_level(LOG_DEBUG);
	if (options.file) {
		description.disk[0] = (struct machine_disk){.path = options.file};
	} else {
		images.item[0] = argv[1];
		if (attach_disks(&description, &images, error, sizeof(error)))
			return usage_error("vhost-blk", error);
		if (description.disk[0].vhost_user || description.disk[0].bus)
			return usage_error("vhost-blk", "IMAGE takes ro, serial= and queues= only");
	}
	description.disk[0].read_only |= options.read_only;
	return serve(&description.disk[0], &config);
}
