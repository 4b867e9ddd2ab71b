/*
 * Sends a node's probes and judges what comes back. One thread; it is handed everything by prober.py, and computes and
 * remembers an HMAC for each probe, so that XDP (ebpf/probe.h) only compares. Another thread looks at carriers.
 *
 *   alive ── three in a row (of a link: twelve) have not come back in time, or the port has no carrier ──▶ dead
 *   dead  ── all have come back for as long as it was put on hold, and the port has a carrier ──▶ alive
 *
 * In time: within what the ones before took and their deviation (RFC 6298). One that comes later shows that the path is
 * alive, and slower than it was: what is late does not count as missed any more, and what follows has more time. A path
 * that keeps failing is put on hold ever longer. The bit of a dead candidate path is set in `path_dead`, where XDP looks before it encapsulates.
 *
 * XDP notes there which SR Policies it has sent by. Paths that carried nothing for USED_NS are probed each IDLE_NS at most,
 * and where that is true of all of them both threads sleep longer.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/bpf.h>
#include <linux/ethtool.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>

#define VISIBLE       __attribute__((visibility("default")))
#define REMEMBERED    64 /* PROBES_REMEMBERED of ebpf/tables.h */
#define MISSED_MAX    3
#define MISSED_LINK   12         /* a link: its paths are left before, and to find others costs more */
#define LATE_NS       (100 * MS) /* a sender that wakes up so much too late */
#define BURST         64
#define FRAME_MAX     320
#define SAMPLES       256
#define MS            1000000ull
#define SECOND        (1000 * MS)
#define TIMEOUT_FIRST (200 * MS)
#define TIMEOUT_LEAST (4 * MS) /* beyond what the probes before took */
#define HOLD_NS       SECOND
#define HOLDS_MAX     6 /* 64 s */
#define CARRIER_NS    (4 * MS)
#define SLEEP_LEAST   (4 * MS) /* so that probes of many paths go together */
#define USED_NS       SECOND
#define IDLE_NS       (100 * MS)
#define IDLE_SLEEP    (50 * MS) /* as SLEEP_LEAST; how late the first packet is noticed */
#define NO_SLOT       0xffffffffu
#define STAMP_BYTES   112
#define STAMP_SIGNED  96
#define NTP_EPOCH     2208988800ull /* of Unix time, RFC 5905 */

/* libcrypto's, which Python brings; its headers need not be there. SHA256_Update and _Final use the CPU's instructions. */
struct sha256 {
	uint32_t state[8], low, high, data[16];
	unsigned int number, length;
};
int SHA256_Init(struct sha256 *);
int SHA256_Update(struct sha256 *, const void *, size_t);
int SHA256_Final(unsigned char *, struct sha256 *);

enum standing {
	NOT_SENT,
	SENT,
	OVERDUE,
	COUNTED
};

/* struct probe_sent of ebpf/probe.h */
struct sent {
	uint64_t sent_ns, received_ns;
	uint8_t hmac[16];
	uint32_t sequence, is_sent; /* enum standing */
};
_Static_assert(sizeof(struct sent) == 40, "probe_sent");

/* struct path_judgement of ebpf/probe.h */
struct path {
	uint32_t dead, is_used;
};

/* One probe; the first part is prober.py's, who also reads the last. */
struct target {
	uint8_t frame[FRAME_MAX];  /* as it is sent, but for what STAMP and UDP's checksum say */
	uint32_t length, stamp_at; /* of the frame */
	uint32_t checksum_base;    /* sum of what the checksum covers beside STAMP */
	uint32_t ifindex, port;
	uint32_t ssid, group, slot; /* slot NO_SLOT: it judges no candidate path */
	uint64_t interval_ns;

	uint64_t next_ns, used_ns, alive_since_ns, good_since_ns;
	uint64_t rtt_ns, deviation_ns;
	uint32_t sequence, judged; /* the next to be sent, to be judged */
	uint32_t missed, overdue, holds;
	uint32_t is_dead, no_carrier;
	uint64_t sent, lost;
	uint32_t samples; /* so many came back; of the last ones how long they took */
	uint32_t rtt_us[SAMPLES];
};

struct prober {
	struct target *targets;
	uint32_t count, stop;
	struct sent *probes; /* BPF map probe: REMEMBERED for each SSID */
	struct path *paths;  /* BPF map path_dead */
	int32_t socket, control;
	int32_t woken;            /* an eventfd: readable once `stop` is set */
	uint32_t is_idle;         /* nothing was sent by the paths lately */
	uint64_t random, late_ns; /* when this thread last woke up far too late */
	uint8_t key[32];
	char interfaces[512][IFNAMSIZ]; /* by port */
};

VISIBLE uint32_t target_bytes(void)
{
	return sizeof(struct target);
}

VISIBLE uint32_t prober_bytes(void)
{
	return sizeof(struct prober);
}

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * SECOND + now.tv_nsec;
}

/* xorshift64*: jitter is no secret */
static uint64_t random_below(struct prober *prober, uint64_t bound)
{
	prober->random ^= prober->random >> 12;
	prober->random ^= prober->random << 25;
	prober->random ^= prober->random >> 27;
	return bound ? (prober->random * 0x2545f4914f6cdd1dull >> 16) % bound : 0;
}

/* HMAC-SHA-256 (RFC 2104) with a key of 32 octets, as far as it does not depend on the message. */
static void start_hmac(const uint8_t *key, struct sha256 *inner, struct sha256 *outer)
{
	uint8_t pad[64];

	for (int i = 0; i < 64; i++)
		pad[i] = (i < 32 ? key[i] : 0) ^ 0x36;
	SHA256_Init(inner);
	SHA256_Update(inner, pad, sizeof(pad));
	for (int i = 0; i < 64; i++)
		pad[i] ^= 0x36 ^ 0x5c;
	SHA256_Init(outer);
	SHA256_Update(outer, pad, sizeof(pad));
}

/* RFC 8762 §4.4: the first 16 octets, of the first 96 of the packet */
static void hmac(const struct sha256 *inner, const struct sha256 *outer, const uint8_t *message, uint8_t *to)
{
	struct sha256 working = *inner;
	uint8_t digest[32];

	SHA256_Update(&working, message, STAMP_SIGNED);
	SHA256_Final(digest, &working);
	working = *outer;
	SHA256_Update(&working, digest, sizeof(digest));
	SHA256_Final(digest, &working);
	memcpy(to, digest, 16);
}

static void put32(uint8_t *to, uint32_t value)
{
	value = __builtin_bswap32(value);
	memcpy(to, &value, sizeof(value));
}

static uint16_t checksum(uint32_t base, const uint8_t *data, uint32_t length)
{
	uint64_t sum = base;

	for (uint32_t i = 0; i < length; i += 2)
		sum += (uint32_t)data[i] << 8 | data[i + 1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff ? 0xffff : (uint16_t)~sum; /* RFC 8200 §8.1: 0 is sent as ffff */
}

static struct sent *remembered(struct prober *prober, const struct target *target, uint32_t sequence)
{
	return &prober->probes[target->ssid * REMEMBERED + sequence % REMEMBERED];
}

static void write_probe(struct prober *prober, struct target *target, const struct sha256 *keyed, uint64_t now_ns,
			uint64_t real_ns)
{
	uint8_t *stamp = target->frame + target->stamp_at;
	struct sent *sent = remembered(prober, target, target->sequence);
	uint16_t sum;

	if (sent->is_sent == OVERDUE) { /* it is not waited for any more */
		target->overdue--;
		target->lost++;
	}
	put32(stamp, target->sequence);
	put32(stamp + 16, (uint32_t)(real_ns / SECOND + NTP_EPOCH));
	put32(stamp + 20, (uint32_t)(((real_ns % SECOND) << 32) / SECOND));
	hmac(&keyed[0], &keyed[1], stamp, stamp + STAMP_SIGNED);
	sum = checksum(target->checksum_base, stamp, STAMP_BYTES);
	stamp[-2] = sum >> 8;
	stamp[-1] = sum;
	__atomic_store_n(&sent->is_sent, NOT_SENT, __ATOMIC_RELEASE);
	sent->sent_ns = now_ns;
	sent->received_ns = 0;
	memcpy(sent->hmac, stamp + STAMP_SIGNED, sizeof(sent->hmac));
	sent->sequence = target->sequence;
	__atomic_store_n(&sent->is_sent, SENT, __ATOMIC_RELEASE);
	target->sequence++;
	target->sent++;
}

static uint64_t pace_ns(const struct target *target, uint64_t now_ns)
{
	bool is_used = target->slot == NO_SLOT || now_ns - target->used_ns < USED_NS;

	return is_used || target->interval_ns > IDLE_NS ? target->interval_ns : IDLE_NS;
}

static void send_due(struct prober *prober, const struct sha256 *keyed, uint64_t now_ns)
{
	struct mmsghdr messages[BURST];
	struct sockaddr_ll to[BURST];
	struct iovec parts[BURST];
	uint64_t real_ns = clock_ns(CLOCK_REALTIME);
	unsigned int ready = 0;

	for (uint32_t i = 0; i < prober->count; i++) {
		struct target *target = &prober->targets[i];

		if (target->next_ns <= now_ns && target->ifindex) {
			uint64_t pace = pace_ns(target, now_ns);

			write_probe(prober, target, keyed, now_ns, real_ns);
			/* jitter of 25 %, RFC 5880 §6.8.7 */
			target->next_ns = now_ns + pace - random_below(prober, pace / 4);
			parts[ready] = (struct iovec){target->frame, target->length};
			to[ready] = (struct sockaddr_ll){.sll_family = AF_PACKET, .sll_ifindex = target->ifindex};
			messages[ready] = (struct mmsghdr){.msg_hdr = {.msg_name = &to[ready],
								       .msg_namelen = sizeof(to[ready]),
								       .msg_iov = &parts[ready],
								       .msg_iovlen = 1}};
			ready++;
		}
		if (ready == BURST || (ready && i + 1 == prober->count)) {
			/* What an interface does not take is lost, as what the path does not. */
			for (unsigned int at = 0; at < ready;) {
				int done = sendmmsg(prober->socket, messages + at, ready - at, MSG_DONTWAIT);

				at += done > 0 ? done : 1;
			}
			ready = 0;
		}
	}
}

/* What XDP has sent by since the last look. A path that is used now is probed at once. */
static void look_at_traffic(struct prober *prober, uint64_t now_ns)
{
	bool is_idle = true;

	for (uint32_t first = 0, next; first < prober->count; first = next) {
		struct target *targets = prober->targets;
		struct path *path = &prober->paths[targets[first].group];
		bool is_used = __atomic_load_n(&path->is_used, __ATOMIC_RELAXED);

		if (is_used)
			__atomic_store_n(&path->is_used, 0, __ATOMIC_RELAXED);
		for (next = first; next < prober->count && targets[next].group == targets[first].group; next++) {
			if (targets[next].slot == NO_SLOT)
				continue;
			if (is_used && now_ns - targets[next].used_ns >= USED_NS)
				targets[next].next_ns = now_ns;
			if (is_used)
				targets[next].used_ns = now_ns;
			is_idle &= now_ns - targets[next].used_ns >= USED_NS;
		}
	}
	__atomic_store_n(&prober->is_idle, is_idle, __ATOMIC_RELAXED);
}

/*
 * The bits of each group, whose targets stand together. Where none is alive, one that is on hold and comes back now is
 * taken before those that do not.
 */
static void write_bits(struct prober *prober)
{
	for (uint32_t first = 0, next; first < prober->count; first = next) {
		uint32_t group = prober->targets[first].group, dead = 0, lost = 0, all = 0;
		uint32_t *bits = &prober->paths[group].dead;

		for (next = first; next < prober->count && prober->targets[next].group == group; next++) {
			const struct target *target = &prober->targets[next];

			if (target->slot == NO_SLOT)
				continue;
			all |= 1u << target->slot;
			if (target->is_dead)
				dead |= 1u << target->slot;
			if (target->is_dead && (!target->good_since_ns || target->no_carrier))
				lost |= 1u << target->slot;
		}
		if (dead == all)
			dead = lost;
		if (all && *bits != dead)
			__atomic_store_n(bits, dead, __ATOMIC_RELAXED);
	}
}

static void die(struct target *target, uint64_t now_ns)
{
	if (target->is_dead)
		return;
	if (now_ns - target->alive_since_ns > 10 * (HOLD_NS << target->holds))
		target->holds = 0; /* it has been well for long */
	else if (target->holds < HOLDS_MAX)
		target->holds++;
	__atomic_store_n(&target->is_dead, 1, __ATOMIC_RELEASE);
}

static void take_sample(struct target *target, uint64_t rtt_ns)
{
	uint64_t off = rtt_ns > target->rtt_ns ? rtt_ns - target->rtt_ns : target->rtt_ns - rtt_ns;

	if (!target->samples) {
		target->rtt_ns = rtt_ns;
		target->deviation_ns = rtt_ns / 2;
	} else {
		target->deviation_ns += off / 4 - target->deviation_ns / 4;
		target->rtt_ns += rtt_ns / 8 - target->rtt_ns / 8;
	}
	target->rtt_us[target->samples % SAMPLES] = rtt_ns / 1000;
	__atomic_store_n(&target->samples, target->samples + 1, __ATOMIC_RELEASE);
}

/* What has come back after its time. */
static void take_late(struct prober *prober, struct target *target, uint64_t now_ns)
{
	for (uint32_t age = REMEMBERED; target->overdue && age; age--) {
		struct sent *sent = remembered(prober, target, target->judged - age);
		uint64_t received_ns = __atomic_load_n(&sent->received_ns, __ATOMIC_ACQUIRE);

		if (sent->is_sent != OVERDUE || sent->sequence != target->judged - age || !received_ns)
			continue;
		take_sample(target, received_ns - sent->sent_ns);
		sent->is_sent = COUNTED;
		target->overdue--;
		target->missed = 0;
		if (!target->good_since_ns)
			target->good_since_ns = now_ns;
	}
}

static void judge(struct prober *prober, struct target *target, uint64_t now_ns)
{
	uint64_t timeout = 4 * target->deviation_ns, pace = pace_ns(target, now_ns), least = pace / 4;
	uint32_t missed_max = target->slot == NO_SLOT ? MISSED_LINK : MISSED_MAX;

	/* However unsteady the path was, a few that are missed are enough. */
	if (timeout > MISSED_MAX * pace)
		timeout = MISSED_MAX * pace;
	if (timeout < least)
		timeout = least;
	if (timeout < TIMEOUT_LEAST)
		timeout = TIMEOUT_LEAST;
	timeout = target->samples ? timeout + target->rtt_ns : TIMEOUT_FIRST;
	take_late(prober, target, now_ns);
	while (target->judged != target->sequence) {
		struct sent *sent = remembered(prober, target, target->judged);
		uint64_t received_ns = __atomic_load_n(&sent->received_ns, __ATOMIC_ACQUIRE);

		if (received_ns) {
			take_sample(target, received_ns > sent->sent_ns ? received_ns - sent->sent_ns : 0);
			target->missed = 0;
			if (!target->good_since_ns)
				target->good_since_ns = now_ns;
		} else if (now_ns - sent->sent_ns > timeout || target->sequence - target->judged == REMEMBERED) {
			sent->is_sent = OVERDUE;
			target->overdue++;
			target->missed++;
			target->good_since_ns = 0;
		} else {
			break;
		}
		target->judged++;
	}
	if (target->no_carrier)
		target->good_since_ns = 0;
	/* Who has hardly run has learnt nothing about any single link. */
	if (target->slot == NO_SLOT && now_ns - prober->late_ns < MISSED_LINK * target->interval_ns)
		target->missed = 0;
	if (target->no_carrier || target->missed >= missed_max)
		die(target, now_ns);
	else if (target->is_dead && target->good_since_ns &&
		 now_ns - target->good_since_ns >= HOLD_NS << target->holds) {
		target->alive_since_ns = now_ns;
		__atomic_store_n(&target->is_dead, 0, __ATOMIC_RELEASE);
	}
}

/*
 * Asks each port that probes are sent at; the kernel tells others of a lost carrier late. The kernel may be busy with some
 * other interface for a while before it answers, which is why judging does not wait for it.
 */
static void look_at_carriers(struct prober *prober)
{
	struct ethtool_value link = {.cmd = ETHTOOL_GLINK};
	uint8_t known[512] = {};

	for (uint32_t i = 0; i < prober->count; i++) {
		struct target *target = &prober->targets[i];
		uint32_t port = target->port % 512;
		struct ifreq request = {.ifr_data = (char *)&link};

		if (!target->ifindex)
			continue;
		if (!known[port]) {
			memcpy(request.ifr_name, prober->interfaces[port], IFNAMSIZ);
			known[port] = ioctl(prober->control, SIOCETHTOOL, &request) || link.data ? 1 : 2;
		}
		__atomic_store_n(&target->no_carrier, known[port] == 2, __ATOMIC_RELAXED);
	}
}

static uint64_t due_ns(const struct prober *prober)
{
	uint64_t due = UINT64_MAX;

	for (uint32_t i = 0; i < prober->count; i++)
		if (prober->targets[i].next_ns < due)
			due = prober->targets[i].next_ns;
	return due;
}

/* Sleeps until then, or until `stop` is set. */
static void sleep_until(const struct prober *prober, uint64_t until_ns)
{
	uint64_t now_ns = clock_ns(CLOCK_MONOTONIC), left_ns = until_ns > now_ns ? until_ns - now_ns : 0;
	struct timespec left = {left_ns / SECOND, left_ns % SECOND};
	struct pollfd woken = {.fd = prober->woken, .events = POLLIN};

	ppoll(&woken, 1, &left, NULL);
}

/* Else a busy machine would be taken for a dead path. Where it is not allowed this thread is as all are. */
static void come_first(void)
{
	struct sched_param first = {.sched_priority = 1};

	sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &first);
}

/* Until `stop` is set. */
VISIBLE void prober_watch(struct prober *prober)
{
	come_first();
	while (!__atomic_load_n(&prober->stop, __ATOMIC_ACQUIRE)) {
		bool is_idle = __atomic_load_n(&prober->is_idle, __ATOMIC_RELAXED);

		look_at_carriers(prober);
		sleep_until(prober, clock_ns(CLOCK_MONOTONIC) + (is_idle ? IDLE_NS : CARRIER_NS));
	}
}

/* Until `stop` is set. */
VISIBLE void prober_run(struct prober *prober)
{
	uint64_t at_ns = clock_ns(CLOCK_MONOTONIC);
	struct sha256 keyed[2];

	come_first();
	start_hmac(prober->key, &keyed[0], &keyed[1]);
	while (!__atomic_load_n(&prober->stop, __ATOMIC_ACQUIRE)) {
		uint64_t now_ns = clock_ns(CLOCK_MONOTONIC), until_ns, sleep_ns;

		if (now_ns > at_ns + LATE_NS)
			prober->late_ns = now_ns;
		look_at_traffic(prober, now_ns);
		send_due(prober, keyed, now_ns);
		for (uint32_t i = 0; i < prober->count; i++)
			judge(prober, &prober->targets[i], now_ns);
		write_bits(prober);
		sleep_ns = prober->is_idle ? IDLE_SLEEP : SLEEP_LEAST;
		until_ns = due_ns(prober);
		if (until_ns > now_ns + sleep_ns)
			until_ns = now_ns + sleep_ns;
		if (until_ns < at_ns + sleep_ns)
			until_ns = at_ns + sleep_ns;
		at_ns = until_ns;
		sleep_until(prober, until_ns);
	}
}
