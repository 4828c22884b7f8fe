# SPDX-License-Identifier: BSD-2-Clause
# The front door. Meson does the building; this names the things that people do.
BUILD  ?= build
PREFIX ?= /usr/local
RUN    ?=
FUZZ_SECONDS ?= 60

.PHONY: all run test test-long bench fuzz install clean setup

all: setup                 ## build build/guise
	@tools/build $(BUILD)

setup:                     # install the Debian packages that building needs, if any is missing
	@tools/setup build

run: all                   ## boot a Debian kernel to a shell; RUN="--cpus 2" adds options
	@tools/setup guest
	@tools/guest $(BUILD)/guest cloud
	$(BUILD)/guise run --kernel $(BUILD)/guest/vmlinuz-cloud --initrd $(BUILD)/guest/initrd.cpio \
		--append "console=ttyS0 quiet online" $(RUN)

test:                      ## every test, in the normal and the sanitizer builds
	@tools/test

test-long:                 ## the same with more random instructions, more boots and stress in a guest
	@tools/test --long

bench: all                 ## measure beside QEMU; writes build/bench/results.md
	@tools/setup test
	@tools/guest $(BUILD)/guest cloud
	bench/run --build $(BUILD) $(BENCH)
	bench/virtio --build $(BUILD)

fuzz:                      ## run every fuzz target for FUZZ_SECONDS
	@tools/fuzz $(FUZZ_SECONDS)

install: all               ## install the program and its manual page under PREFIX
	meson configure $(BUILD) --prefix $(abspath $(PREFIX))
	meson install -C $(BUILD)

clean:                     ## remove everything that was built
	rm -rf build build-asan build-tsan build-fuzz
