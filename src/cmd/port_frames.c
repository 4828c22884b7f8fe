/* SPDX-License-Identifier: BSD-2-Clause */
/* Frames for guise port: UDP that can be recognised, ARP and ping answered. */
#include "cmd/port_frames.h"

#include <arpa/inet.h>
#include <string.h>

enum { ETHERTYPE = 12, IP = 14, UDP = IP + 20, ARP_FRAME = 14 + 28, ICMP_ECHO = 8, MAGIC = 0x67756973 };

static uint16_t checksum(const uint8_t *data, uint32_t bytes)
{
	uint32_t sum = 0;

	for (uint32_t k = 0; k + 1 < bytes; k += 2)
		sum += (uint32_t)data[k] << 8 | data[k + 1];
	if (bytes % 2)
		sum += (uint32_t)data[bytes - 1] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static void put16(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 8);
	at[1] = (uint8_t)value;
}

void frame_headers(uint8_t *frame, uint32_t bytes, const uint8_t from[6], const uint8_t to[6])
{
	static const uint8_t ip[20] = { 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 198, 18, 0, 1, 198, 18, 0, 2 };
	static const uint8_t udp[8] = { 0xc0, 0, 0, 9 }; /* to discard; 198.18/15 is for benchmarks (RFC 2544) */

	memcpy(frame, to, 6);
	memcpy(frame + 6, from, 6);
	put16(frame + ETHERTYPE, 0x0800);
	memcpy(frame + IP, ip, sizeof(ip));
	put16(frame + IP + 2, bytes - IP);
	put16(frame + IP + 10, checksum(frame + IP, 20));
	memcpy(frame + UDP, udp, sizeof(udp));
	put16(frame + UDP + 4, bytes - UDP);
}

void frame_number(uint8_t *frame, uint64_t number)
{
	uint32_t magic = MAGIC;

	memcpy(frame + FRAME_HEADERS, &number, sizeof(number));
	memcpy(frame + FRAME_NUMBER, &magic, sizeof(magic));
}

/* Byte k of frame `number` is byte k % 8 of a word that depends on both. */
static uint64_t word_of(uint64_t number, uint32_t k)
{
	uint64_t x = number * 0x9e3779b97f4a7c15u + k * 0xbf58476d1ce4e5b9u;

	return x ^ x >> 31;
}

void frame_fill(uint8_t *frame, uint32_t bytes, uint64_t number)
{
	frame_number(frame, number);
	for (uint32_t k = FRAME_NUMBER + 4; k < bytes; k += 8) {
		uint64_t word = word_of(number, k + bytes);

		memcpy(frame + k, &word, bytes - k < 8 ? bytes - k : 8);
	}
}

bool frame_check(const uint8_t *frame, uint32_t bytes, uint64_t *number)
{
	uint32_t magic;

	if (bytes < FRAME_LEAST)
		return false;
	memcpy(number, frame + FRAME_HEADERS, sizeof(*number));
	memcpy(&magic, frame + FRAME_NUMBER, sizeof(magic));
	if (magic != MAGIC)
		return false;
	for (uint32_t k = FRAME_NUMBER + 4; k < bytes; k += 8) {
		uint64_t word = word_of(*number, k + bytes);

		if (memcmp(frame + k, &word, bytes - k < 8 ? bytes - k : 8))
			return false;
	}
	return true;
}

void frame_swap_macs(uint8_t *frame)
{
	uint8_t was[6];

	memcpy(was, frame, 6);
	memcpy(frame, frame + 6, 6);
	memcpy(frame + 6, was, 6);
}

/* Who has X? We have. (RFC 826) */
static bool answer_arp(uint8_t *frame, const uint8_t mac[6])
{
	uint8_t *arp = frame + 14, asked[4];

	if (arp[7] != 1)
		return false;
	arp[7] = 2;
	memcpy(asked, arp + 24, 4);
	memcpy(arp + 18, arp + 8, 10); /* the asker becomes the target */
	memcpy(arp + 8, mac, 6);
	memcpy(arp + 14, asked, 4);
	frame_swap_macs(frame);
	memcpy(frame + 6, mac, 6);
	return true;
}

static bool answer_ping(uint8_t *frame, uint32_t bytes)
{
	uint8_t *ip = frame + IP, was[4];
	uint32_t header = (ip[0] & 15) * 4u, length = (uint32_t)ip[2] << 8 | ip[3];
	uint8_t *icmp = ip + header;

	if (ip[0] >> 4 != 4 || header < 20 || ip[9] != 1 || length > bytes - IP || length < header + ICMP_ECHO || icmp[0] != 8)
		return false;
	memcpy(was, ip + 12, 4);
	memcpy(ip + 12, ip + 16, 4);
	memcpy(ip + 16, was, 4);
	icmp[0] = 0;
	put16(icmp + 2, 0);
	put16(icmp + 2, checksum(icmp, length - header));
	frame_swap_macs(frame);
	return true;
}

bool frame_answer(uint8_t *frame, uint32_t bytes, const uint8_t mac[6])
{
	uint32_t type = bytes > IP ? (uint32_t)frame[ETHERTYPE] << 8 | frame[ETHERTYPE + 1] : 0;

	if (type == 0x0806 && bytes >= ARP_FRAME)
		return answer_arp(frame, mac);
	return type == 0x0800 && bytes >= IP + 20 + ICMP_ECHO && answer_ping(frame, bytes);
}
