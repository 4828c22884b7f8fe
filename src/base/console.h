/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The person's (or program's) end of a guest's terminal: standard input and output, a pseudo-terminal, a Unix
 * socket or a file. A byte stream in both directions, served by an event loop.
 */
#ifndef GUISE_BASE_CONSOLE_H
#define GUISE_BASE_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/loop.h"

struct console;

/* The device on the other end. Called on the loop's thread; NULL functions: no input wanted. */
struct console_peer {
	size_t (*room)(void *opaque); /* how many bytes receive() would take now */
	void (*receive)(void *opaque, const uint8_t *bytes, size_t count);
	void (*quit)(void *opaque); /* Ctrl-A X on standard input */
	void *opaque;
	/* The rest may be NULL too. A peer with writable() uses console_try_write(), and a slow client loses nothing. */
	void (*writable)(void *opaque);			  /* there is room again after console_try_write() took less */
	void (*opened)(void *opaque, bool is_open);	  /* a client of a socket came or left */
	void (*resized)(void *opaque, uint16_t columns, uint16_t rows); /* the terminal; the first time from console_set_peer() */
};

/*
 * spec: "stdio", "pty", "unix:PATH" (listens; one client at a time), "file:PATH" (output only) or "none". Standard
 * input is put into raw mode if it is a terminal; one console of a process may be on it. 0/-errno, with what failed in
 * `error`.
 */
int console_open(const char *spec, struct loop *loop, struct console **console, char *error, size_t error_size);
/* Write out what is buffered, restore the terminal. The loop is not running. */
void console_close(struct console *console);
void console_set_peer(struct console *console, const struct console_peer *peer);

/*
 * Output. Bytes are collected and written by the loop a moment later in one call; the caller waits only when the
 * buffer is full and the other side is slow. A socket without client and a full pseudo-terminal lose output. Any
 * thread.
 */
void console_write(struct console *console, const void *bytes, size_t count);
/* Like console_write(), but never waits: returns how many bytes were taken. Without a client all are, and are lost. Any thread. */
size_t console_try_write(struct console *console, const void *bytes, size_t count);
void console_flush(struct console *console); /* any thread */
bool console_is_open(struct console *console); /* is there somebody on the other side? Always, but for a socket. Any thread. */
/* The peer has room again after room() returned 0. Any thread. */
void console_resume_input(struct console *console);

#endif
