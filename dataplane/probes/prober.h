/* What the parts of the prober share; prober.c says what it is. prober.py has the same structs. */
#ifndef NETSTITCH_PROBER_H
#define NETSTITCH_PROBER_H

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define VISIBLE    __attribute__((visibility("default")))
#define PROBES     512 /* as in ebpf/tables.h, and the next */
#define REMEMBERED 64
#define PORTS      512
#define FRAME_MAX  320
#define SAMPLES    256
#define MS         1000000ull
#define SECOND     (1000 * MS)
#define USED_NS    SECOND
#define IDLE_NS    (100 * MS)
#define NO_SLOT    0xffffffffu

enum standing {
	NOT_SENT,
	SENT,
	OVERDUE, /* it may still come back, and is no loss yet */
	LOST,    /* it is counted as lost, and may still come back */
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
	uint32_t dead, is_used, doubted, unused;
};
_Static_assert(sizeof(struct path) == 16, "path_judgement");

/* Complete but for what STAMP and UDP's checksum say. */
struct frame {
	uint32_t length, stamp_at; /* length 0: there is none */
	uint32_t checksum_base;    /* sum of what the checksum covers beside STAMP */
	uint8_t octets[FRAME_MAX];
};

/* One probe. What is looked at each time comes first. */
struct target {
	uint64_t next_ns, used_ns, alive_since_ns, good_since_ns;
	uint64_t rtt_ns, deviation_ns, doubted_ns;
	uint64_t heard_ns;         /* when the last that came back did */
	uint32_t sequence, judged; /* the next to be sent, to be judged */
	uint32_t missed, overdue, holds;
	uint32_t is_dead, no_carrier;
	uint32_t to_tell; /* so many notices that it is dead */
	uint64_t sent, lost, interval_ns;
	uint32_t ifindex, port;
	uint32_t ssid, group, slot;   /* slot NO_SLOT: it judges no candidate path */
	uint32_t far_group, far_slot; /* of the same path at its other end; far_slot NO_SLOT: nobody there takes it */
	uint32_t samples;             /* so many came back; of the last ones how long they took */
	struct frame probe, notice;   /* there and back; to the far end only */
	uint32_t rtt_us[SAMPLES];
};

struct prober {
	struct target *targets; /* those of a group stand together */
	uint32_t count, stop;
	struct sent *probes; /* BPF map probe: REMEMBERED for each SSID */
	struct path *paths;  /* BPF map path_dead */
	int32_t socket, control;
	int32_t stopped;  /* an eventfd: readable once `stop` is set */
	int32_t changed;  /* an eventfd: a carrier has come or gone */
	int32_t links;    /* a netlink socket: the kernel tells of interfaces */
	uint32_t is_idle; /* nothing was sent by the paths lately */
	uint32_t bits_differ, unused;
	uint64_t random, late_ns; /* when this thread last woke up far too late */
	uint8_t key[32];
	char interfaces[PORTS][IFNAMSIZ];
	uint64_t look_ns[PROBES]; /* when there is something to do about each target */
	uint32_t groups[PROBES];  /* of each target: what is looked at often stands together */
};

static inline uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * SECOND + now.tv_nsec;
}

static inline uint64_t pace_ns(const struct target *target, uint64_t now_ns)
{
	bool is_used = target->slot == NO_SLOT || now_ns - target->used_ns < USED_NS;

	return is_used || target->interval_ns > IDLE_NS ? target->interval_ns : IDLE_NS;
}

static inline struct sent *remembered(const struct prober *prober, const struct target *target, uint32_t sequence)
{
	return &prober->probes[target->ssid * REMEMBERED + sequence % REMEMBERED];
}

/* frames.c */
void begin_frames(const struct prober *prober);
void queue_probe(struct prober *prober, struct target *target, uint64_t now_ns, uint64_t real_ns);
void flush_frames(struct prober *prober);
void send_notice(struct prober *prober, struct target *by, const struct target *dead);

/* judging.c */
void judge(struct prober *prober, struct target *target, uint64_t now_ns);
uint64_t deadline_ns(const struct prober *prober, const struct target *target, uint64_t now_ns);
void write_bits(struct prober *prober);

/* carriers.c */
void look_at_carriers(struct prober *prober);
bool hear_of_links(struct prober *prober);

#endif
