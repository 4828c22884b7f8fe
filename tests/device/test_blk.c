/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-blk driven without a guest: data, geometry of chains, flags, bad requests, reset under load. */
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "devices/blk.h"
#include "driver.h"

enum { DISK_BYTES = 4 << 20, HEADER = TEST_DATA, STATUS = TEST_DATA + 64, BUFFER = TEST_DATA + 4096 };

struct fixture {
	struct test_driver driver;
	struct disk *disk;
	struct blk *blk;
	char path[64];
};

static void set_up(struct fixture *f, unsigned disk_flags)
{
	char why[200];
	int fd;

	snprintf(f->path, sizeof(f->path), "/tmp/guise-blk-XXXXXX");
	fd = mkstemp(f->path);
	assert_int_equal(ftruncate(fd, DISK_BYTES), 0);
	close(fd);
	driver_memory(&f->driver);
	assert_int_equal(disk_open(f->path, disk_flags, &f->disk, why, sizeof(why)), 0);
	assert_int_equal(blk_new(f->disk, &f->driver.dma, &(struct blk_config){ "test", "serial-1", 2 }, &f->blk), 0);
}

static void tear_down(struct fixture *f)
{
	driver_reset(&f->driver);
	blk_free(f->blk);
	disk_close(f->disk);
	driver_end(&f->driver);
	unlink(f->path);
}

static uint8_t *at(struct fixture *f, gpa_t gpa)
{
	return f->driver.ram + gpa;
}

/* One request with the data in `pieces` buffers; returns the status byte. */
static uint8_t request(struct fixture *f, uint32_t type, uint64_t sector, uint32_t bytes, unsigned pieces, uint32_t *written)
{
	struct virtio_blk_outhdr header = { .type = type, .sector = sector };
	bool out = type == VIRTIO_BLK_T_OUT || type == VIRTIO_BLK_T_DISCARD || type == VIRTIO_BLK_T_WRITE_ZEROES;
	struct virtq_segment seg[40] = { { HEADER, sizeof(header) } };
	unsigned n = 1, readable;

	memcpy(at(f, HEADER), &header, sizeof(header));
	*at(f, STATUS) = 0xee;
	for (unsigned k = 0; bytes && k < pieces; k++)
		seg[n++] = (struct virtq_segment){ BUFFER + bytes / pieces * k, k + 1 < pieces ? bytes / pieces : bytes - bytes / pieces * k };
	readable = out ? n : 1;
	seg[n++] = (struct virtq_segment){ STATUS, 1 };
	driver_send(&f->driver, 0, seg, readable, n - readable, f);
	assert_ptr_equal(driver_wait(&f->driver, 0, written), f);
	return *at(f, STATUS);
}

static void moves_data(struct fixture *f)
{
	static uint8_t model[DISK_BYTES];
	uint32_t written;

	memset(model, 0, sizeof(model));
	srand(1);
	for (unsigned k = 0; k < 600; k++) {
		uint32_t bytes = 512u * (1 + (unsigned)rand() % 64), pieces = 1 + (unsigned)rand() % 9;
		uint64_t sector = (unsigned)rand() % ((DISK_BYTES - bytes) / 512 + 1);

		if (rand() % 2) {
			for (unsigned b = 0; b < bytes; b++)
				model[sector * 512 + b] = at(f, BUFFER)[b] = (uint8_t)rand();
			assert_int_equal(request(f, VIRTIO_BLK_T_OUT, sector, bytes, pieces, &written), VIRTIO_BLK_S_OK);
			assert_int_equal(written, 1);
		} else {
			assert_int_equal(request(f, VIRTIO_BLK_T_IN, sector, bytes, pieces, &written), VIRTIO_BLK_S_OK);
			assert_int_equal(written, bytes + 1);
			assert_memory_equal(at(f, BUFFER), model + sector * 512, bytes);
		}
	}
	assert_int_equal(request(f, VIRTIO_BLK_T_FLUSH, 0, 0, 0, &written), VIRTIO_BLK_S_OK);
}

static void all_ring_formats(void **state)
{
	const uint64_t packed = 1ull << VIRTIO_F_RING_PACKED, event = 1ull << VIRTIO_RING_F_EVENT_IDX, flush = 1ull << VIRTIO_BLK_F_FLUSH;
	const uint64_t features[] = { 0, flush, flush | event, flush | packed, flush | packed | event };
	struct fixture f;

	set_up(&f, 0);
	for (unsigned k = 0; k < 5; k++) {
		uint32_t written;

		if (k)
			driver_reset(&f.driver);
		driver_start(&f.driver, blk_device(f.blk), features[k], 2, 64);
		memset(at(&f, BUFFER), 0, 1 << 20);
		for (unsigned s = 0; s < DISK_BYTES / 512; s += 1024)
			assert_int_equal(request(&f, VIRTIO_BLK_T_OUT, s, 512 * 1024, 1, &written), VIRTIO_BLK_S_OK);
		moves_data(&f);
	}
	tear_down(&f);
}

static void ranges_and_identity(void **state)
{
	struct virtio_blk_discard_write_zeroes range[2] = { { .sector = 8, .num_sectors = 8 }, { .sector = 32, .num_sectors = 1 } };
	struct fixture f;
	uint32_t written;

	set_up(&f, 0);
	driver_start(&f.driver, blk_device(f.blk), 1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_WRITE_ZEROES | 1ull << VIRTIO_BLK_F_DISCARD, 2, 64);
	memset(at(&f, BUFFER), 0xaa, 64 * 512);
	assert_int_equal(request(&f, VIRTIO_BLK_T_OUT, 0, 64 * 512, 1, &written), VIRTIO_BLK_S_OK);
	memcpy(at(&f, BUFFER), range, sizeof(range));
	assert_int_equal(request(&f, VIRTIO_BLK_T_WRITE_ZEROES, 0, sizeof(range), 1, &written), VIRTIO_BLK_S_OK);
	assert_int_equal(request(&f, VIRTIO_BLK_T_IN, 0, 64 * 512, 3, &written), VIRTIO_BLK_S_OK);
	for (unsigned s = 0; s < 64; s++)
		assert_int_equal(at(&f, BUFFER)[s * 512 + 7], (s >= 8 && s < 16) || s == 32 ? 0 : 0xaa);
	range[0].flags = 1; /* UNMAP is not for discard */
	memcpy(at(&f, BUFFER), range, sizeof(range));
	assert_int_equal(request(&f, VIRTIO_BLK_T_DISCARD, 0, sizeof(range), 1, &written), VIRTIO_BLK_S_UNSUPP);
	range[0].flags = 0;
	memcpy(at(&f, BUFFER), range, sizeof(range));
	assert_int_equal(request(&f, VIRTIO_BLK_T_DISCARD, 0, sizeof(range), 1, &written), VIRTIO_BLK_S_OK);
	assert_int_equal(request(&f, VIRTIO_BLK_T_DISCARD, 0, 17, 1, &written), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&f, VIRTIO_BLK_T_GET_ID, 0, 20, 2, &written), VIRTIO_BLK_S_OK);
	assert_string_equal((char *)at(&f, BUFFER), "serial-1");
	tear_down(&f);
}

static void bad_requests_cost_a_status(void **state)
{
	struct virtq_segment short_header[2] = { { HEADER, 15 }, { STATUS, 1 } };
	struct fixture f;
	uint32_t written;

	set_up(&f, 0);
	driver_start(&f.driver, blk_device(f.blk), 1ull << VIRTIO_BLK_F_FLUSH, 2, 64);
	assert_int_equal(request(&f, VIRTIO_BLK_T_IN, DISK_BYTES / 512, 512, 1, &written), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&f, VIRTIO_BLK_T_IN, DISK_BYTES / 512 - 1, 1024, 1, &written), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&f, VIRTIO_BLK_T_IN, UINT64_MAX, 512, 1, &written), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&f, VIRTIO_BLK_T_OUT, 0, 511, 1, &written), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&f, 77, 0, 512, 1, &written), VIRTIO_BLK_S_UNSUPP);
	driver_send(&f.driver, 0, short_header, 1, 1, &f);
	assert_ptr_equal(driver_wait(&f.driver, 0, &written), &f);
	assert_int_equal(written, 0);
	assert_int_equal(request(&f, VIRTIO_BLK_T_IN, 0, 512, 1, &written), VIRTIO_BLK_S_OK); /* and goes on */
	tear_down(&f);
}

static void read_only_refuses_writes(void **state)
{
	struct fixture f;
	uint32_t written;

	set_up(&f, DISK_READONLY);
	assert_true(blk_device(f.blk)->offered >> VIRTIO_BLK_F_RO & 1);
	assert_false(blk_device(f.blk)->offered >> VIRTIO_BLK_F_DISCARD & 1);
	driver_start(&f.driver, blk_device(f.blk), 1ull << VIRTIO_BLK_F_RO, 1, 64);
	assert_int_equal(request(&f, VIRTIO_BLK_T_OUT, 0, 512, 1, &written), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(&f, VIRTIO_BLK_T_IN, 0, 512, 1, &written), VIRTIO_BLK_S_OK);
	tear_down(&f);
}

/* A reset while requests are in flight returns only when none touches memory any more; then the device starts afresh. */
static void reset_under_load(void **state)
{
	struct fixture f;
	uint32_t written;

	set_up(&f, 0);
	for (unsigned round = 0; round < 30; round++) {
		struct virtio_blk_outhdr header = { .type = VIRTIO_BLK_T_IN };
		struct virtq_segment seg[3] = { { HEADER, sizeof(header) }, { BUFFER, 1 << 20 }, { STATUS, 1 } };

		driver_start(&f.driver, blk_device(f.blk), round % 2 ? 1ull << VIRTIO_F_RING_PACKED : 0, 2, 64);
		memcpy(at(&f, HEADER), &header, sizeof(header));
		for (unsigned k = 0; k < 15; k++) {
			seg[2].gpa = STATUS + k;
			driver_send(&f.driver, k % 2, seg, 1, 2, &f);
		}
		driver_reset(&f.driver);
		memset(at(&f, BUFFER), 0x55, 1 << 20);
		usleep(1000);
		for (unsigned b = 0; b < 1 << 20; b += 4096)
			assert_int_equal(at(&f, BUFFER)[b], 0x55);
	}
	driver_start(&f.driver, blk_device(f.blk), 0, 2, 64);
	assert_int_equal(request(&f, VIRTIO_BLK_T_IN, 0, 512, 1, &written), VIRTIO_BLK_S_OK);
	tear_down(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_ring_formats),	    cmocka_unit_test(ranges_and_identity),
		cmocka_unit_test(bad_requests_cost_a_status), cmocka_unit_test(read_only_refuses_writes),
		cmocka_unit_test(reset_under_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
