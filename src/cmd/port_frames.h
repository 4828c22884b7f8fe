/* SPDX-License-Identifier: BSD-2-Clause */
/* Frames for guise port: made, checked and answered. All take the frame without the virtio_net_hdr. */
#ifndef GUISE_CMD_PORT_FRAMES_H
#define GUISE_CMD_PORT_FRAMES_H

#include <stdbool.h>
#include <stdint.h>

enum { FRAME_LEAST = 60, FRAME_HEADERS = 14 + 20 + 8, FRAME_NUMBER = FRAME_HEADERS + 8 };

/* Ethernet, IPv4 and UDP headers of a frame of `bytes`, checksums right; the rest is left alone. */
void frame_headers(uint8_t *frame, uint32_t bytes, const uint8_t from[6], const uint8_t to[6]);
/* A number behind the headers, and (all of it) contents that follow from number and length; the UDP checksum is 0, none. */
void frame_number(uint8_t *frame, uint64_t number);
void frame_fill(uint8_t *frame, uint32_t bytes, uint64_t number);
/* Is it one of frame_fill()'s, unharmed? Its number goes to *number. */
bool frame_check(const uint8_t *frame, uint32_t bytes, uint64_t *number);
void frame_swap_macs(uint8_t *frame);
/* Turn an ARP request or an ICMP echo request into its answer, whoever is asked for. false: it is neither. */
bool frame_answer(uint8_t *frame, uint32_t bytes, const uint8_t mac[6]);

#endif
