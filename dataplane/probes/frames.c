/* Probes and notices as they are sent: sequence number, time, HMAC and checksum are written into frames that are ready. */
#define _GNU_SOURCE
#include <linux/if_packet.h>
#include <string.h>
#include <sys/socket.h>

#include "prober.h"

#define BURST        64
#define STAMP_BYTES  112
#define STAMP_SIGNED 96
#define HMAC_BYTES   16
#define NTP_EPOCH    2208988800ull /* of Unix time, RFC 5905 */

/* libcrypto's, which Python brings; its headers need not be there. SHA256_Transform uses the CPU's instructions. */
struct sha256 {
	uint32_t state[8], low, high, data[16];
	unsigned int number, length;
};
int SHA256_Init(struct sha256 *);
void SHA256_Transform(struct sha256 *, const unsigned char *block);

static struct sha256 inner_key, outer_key;
static struct mmsghdr messages[BURST];
static struct sockaddr_ll receivers[BURST];
static struct iovec parts[BURST];
static unsigned int ready;

static void put32(uint8_t *to, uint32_t value)
{
	value = __builtin_bswap32(value);
	memcpy(to, &value, sizeof(value));
}

/* HMAC-SHA-256 (RFC 2104) with a key of 32 octets, as far as it does not depend on the message. */
void begin_frames(const struct prober *prober)
{
	uint8_t pad[64];

	for (int i = 0; i < 64; i++)
		pad[i] = (i < 32 ? prober->key[i] : 0) ^ 0x36;
	SHA256_Init(&inner_key);
	SHA256_Transform(&inner_key, pad);
	for (int i = 0; i < 64; i++)
		pad[i] ^= 0x36 ^ 0x5c;
	SHA256_Init(&outer_key);
	SHA256_Transform(&outer_key, pad);
	ready = 0;
}

static void put_state(uint8_t *to, const struct sha256 *from, int words)
{
	for (int i = 0; i < words; i++)
		put32(to + 4 * i, from->state[i]);
}

/*
 * RFC 8762 §4.4: the first 16 octets, of the first 96 of the packet. These are a block and a half, and what is hashed
 * again is half a block: the padding of FIPS 180-4 §5.1.1 is written out here.
 */
static void sign(const uint8_t *message, uint8_t *to)
{
	uint8_t block[64] = {};
	struct sha256 working = inner_key;

	SHA256_Transform(&working, message);
	memcpy(block, message + 64, STAMP_SIGNED - 64);
	block[32] = 0x80;
	put32(block + 60, 8 * (64 + STAMP_SIGNED));
	SHA256_Transform(&working, block);
	put_state(block, &working, 8);
	put32(block + 60, 8 * (64 + 32));
	working = outer_key;
	SHA256_Transform(&working, block);
	put_state(to, &working, HMAC_BYTES / 4);
}

/* Of UDP, over all that STAMP says. */
static void put_checksum(const struct frame *frame, uint8_t *stamp)
{
	uint64_t sum = frame->checksum_base;
	uint32_t word;

	for (uint32_t i = 0; i < STAMP_BYTES; i += sizeof(word)) {
		memcpy(&word, stamp + i, sizeof(word));
		sum += __builtin_bswap32(word);
	}
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	if (sum != 0xffff) /* RFC 8200 §8.1: 0 is sent as ffff */
		sum = ~sum;
	stamp[-2] = sum >> 8;
	stamp[-1] = sum;
}

static void queue(struct prober *prober, struct frame *frame, uint32_t ifindex)
{
	parts[ready] = (struct iovec){frame->octets, frame->length};
	receivers[ready] = (struct sockaddr_ll){.sll_family = AF_PACKET, .sll_ifindex = ifindex};
	messages[ready] = (struct mmsghdr){.msg_hdr = {.msg_name = &receivers[ready],
						       .msg_namelen = sizeof(receivers[ready]),
						       .msg_iov = &parts[ready],
						       .msg_iovlen = 1}};
	if (++ready == BURST)
		flush_frames(prober);
}

void queue_probe(struct prober *prober, struct target *target, uint64_t now_ns, uint64_t real_ns)
{
	uint8_t *stamp = target->probe.octets + target->probe.stamp_at;
	struct sent *sent = remembered(prober, target, target->sequence);

	if (sent->is_sent == OVERDUE || sent->is_sent == LOST) { /* it is not waited for any more */
		target->overdue--;
		target->lost += sent->is_sent == OVERDUE;
	}
	put32(stamp, target->sequence);
	put32(stamp + 16, (uint32_t)(real_ns / SECOND + NTP_EPOCH));
	put32(stamp + 20, (uint32_t)(((real_ns % SECOND) << 32) / SECOND));
	sign(stamp, stamp + STAMP_SIGNED);
	put_checksum(&target->probe, stamp);
	__atomic_store_n(&sent->is_sent, NOT_SENT, __ATOMIC_RELEASE);
	sent->sent_ns = now_ns;
	sent->received_ns = 0;
	memcpy(sent->hmac, stamp + STAMP_SIGNED, sizeof(sent->hmac));
	sent->sequence = target->sequence;
	__atomic_store_n(&sent->is_sent, SENT, __ATOMIC_RELEASE);
	target->sequence++;
	target->sent++;
	queue(prober, &target->probe, target->ifindex);
}

void flush_frames(struct prober *prober)
{
	/* What an interface does not take is lost, as what the path does not. */
	for (unsigned int at = 0; at < ready;) {
		int done = sendmmsg(prober->socket, messages + at, ready - at, MSG_DONTWAIT);

		at += done > 0 ? done : 1;
	}
	ready = 0;
}

/* Over the path of `by`, to the end that both have in common: that the other one is dead here. ebpf/probe.h reads it. */
void send_notice(struct prober *prober, struct target *by, const struct target *dead)
{
	uint8_t *stamp = by->notice.octets + by->notice.stamp_at;

	stamp[28] = dead->far_group >> 8;
	stamp[29] = dead->far_group;
	stamp[30] = dead->far_slot;
	put_checksum(&by->notice, stamp);
	queue(prober, &by->notice, by->ifindex);
	flush_frames(prober); /* the next may need the same frame */
}
