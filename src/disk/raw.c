/* SPDX-License-Identifier: BSD-2-Clause */
/* Raw images: the file's bytes are the disk's. */
#include "disk/raw.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static int refuse(char *why, unsigned size, int err, const char *format, ...) __attribute__((format(printf, 4, 5)));
static int refuse(char *why, unsigned size, int err, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(why, size, format, args);
	va_end(args);
	return err;
}

static int measure(struct disk *disk, const char *path, char *why, unsigned why_size)
{
	struct stat st;

	if (fstat(disk->fd, &st))
		return refuse(why, why_size, -errno, "%s: %s", path, strerror(errno));
	disk->info.block_size = 512;
	if (S_ISBLK(st.st_mode)) {
		int block_size;

		if (ioctl(disk->fd, BLKGETSIZE64, &disk->info.size))
			return refuse(why, why_size, -errno, "%s: cannot get its size: %s", path, strerror(errno));
		if (!ioctl(disk->fd, BLKSSZGET, &block_size) && block_size >= 512)
			disk->info.block_size = (uint32_t)block_size;
	} else if (S_ISREG(st.st_mode)) {
		disk->info.size = (uint64_t)st.st_size;
	} else {
		return refuse(why, why_size, -EINVAL, "%s: neither a file nor a block device", path);
	}
	disk->info.can_discard = !disk->info.read_only;
	disk->info.size &= ~511ull;
	if (!disk->info.size)
		return refuse(why, why_size, -EINVAL, "%s: smaller than one sector of 512 bytes", path);
	return 0;
}

int disk_open(const char *path, unsigned flags, struct disk **out, char *why, unsigned why_size)
{
	struct disk *disk = calloc(1, sizeof(*disk));
	int err;

	if (!disk)
		return refuse(why, why_size, -ENOMEM, "%s: out of memory", path);
	disk->info.read_only = flags & DISK_READONLY;
	disk->fd = open(path, (disk->info.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	if (disk->fd < 0) {
		err = refuse(why, why_size, -errno, "%s: %s", path, strerror(errno));
		goto fail;
	}
	/* Two writers destroy a file system: the lock is held as long as the file is open. */
	if (flock(disk->fd, (disk->info.read_only ? LOCK_SH : LOCK_EX) | LOCK_NB)) {
		err = refuse(why, why_size, -errno, "%s: %s", path,
			     errno == EWOULDBLOCK ? "in use by another process" : strerror(errno));
		goto fail_fd;
	}
	err = measure(disk, path, why, why_size);
	if (err)
		goto fail_fd;
	*out = disk;
	return 0;
fail_fd:
	close(disk->fd);
fail:
	free(disk);
	return err;
}

void disk_close(struct disk *disk)
{
	if (!disk)
		return;
	close(disk->fd);
	free(disk);
}

const struct disk_info *disk_info(const struct disk *disk)
{
	return &disk->info;
}
