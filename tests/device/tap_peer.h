/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The kernel's side of a TAP interface, in a network namespace of this process's own: a packet socket that sends and receives
 * numbered frames, and what an administrator may do to an interface.
 */
#ifndef TEST_TAP_PEER_H
#define TEST_TAP_PEER_H

#include <stdbool.h>
#include <stdint.h>

enum { PEER_LEAST = 60, PEER_MOST = 1514 };
#define PEER_TAP  "guise-test0"
#define PEER_NONE UINT32_MAX

/* Enter the namespace. NULL, or why that cannot be. */
const char *peer_prepare(void);

/* Frames: size and contents follow from the number. */
uint32_t peer_size(uint32_t number);
void peer_fill(uint8_t *frame, uint32_t number);
/* false: not one of ours; fails the test if it is one of ours, but not this one as it was. */
bool peer_check(const uint8_t *frame, uint32_t bytes, uint32_t number);

void peer_up(bool up); /* set the interface up and meet it; or down */
bool peer_is_there(void);
void peer_delete(void);
void peer_persist(int tap_fd);
/* Have the interface's packets received by processor 1, this thread being on processor 0. false: not here. */
bool peer_steer_to_processor_1(void);
void peer_anywhere(void); /* this thread as before */

void peer_send(uint32_t number);
/*
 * Send numbers 0 to n - 1 from a thread; no longer if the interface goes. Wait for its end by peer_wait(). It keeps some 400 ahead of
 * what it is told has arrived, for the interface's queue is not longer.
 */
void peer_send_many(uint32_t n);
void peer_arrived(uint32_t n);
void peer_wait(void);
/* The number of the next frame; its contents are checked. Fails the test after 20 s. */
uint32_t peer_receive(void);
/* The same or PEER_NONE: at once; after some 100 ms. */
uint32_t peer_receive_now(void);
uint32_t peer_receive_soon(void);

#endif
