/* Frames on their way over a link: loss, rate, delay, in this order. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "relay.h"

#define FRAME_MAX    9216
#define BATCH        64 /* frames read from one end before others get their turn */
#define QUEUE_FRAMES 16384
#define BACKLOG_NS   50000000ull /* what waits longer for its turn on a slow link is dropped, as a full port would */
#define TOLERANCE_NS 20000ull    /* sent this much early rather than woken up for */

/* xorshift64 (Marsaglia 2003): loss needs no better. */
static uint64_t next_random(void)
{
	static uint64_t random_state;

	while (!random_state)
		if (getrandom(&random_state, sizeof(random_state), 0) < 0)
			random_state = nanoseconds(CLOCK_MONOTONIC);
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static void deliver(struct end *from, const uint8_t *data, uint32_t length)
{
	if (from->link->capture)
		record(from->link->capture, data, length);
	if (write(from->peer->tap.fd, data, length) != (ssize_t)length) {
		from->counts.dropped++;
		return;
	}
	from->counts.packets++;
	from->counts.bytes += length;
}

void deliver_due(struct end *from, uint64_t now_ns)
{
	while (from->head && from->head->due_ns <= now_ns + TOLERANCE_NS) {
		struct frame *frame = from->head;

		from->head = frame->next;
		if (!from->head)
			from->tail = &from->head;
		from->queued--;
		deliver(from, frame->data, frame->length);
		free(frame);
	}
}

void discard(struct end *from)
{
	while (from->head) {
		struct frame *frame = from->head;

		from->head = frame->next;
		from->counts.dropped++;
		free(frame);
	}
	from->tail = &from->head;
	from->queued = 0;
	from->busy_until_ns = 0;
	from->last_due_ns = 0;
}

static void enqueue(struct end *from, const uint8_t *data, uint32_t length, uint64_t due_ns)
{
	struct frame *frame = from->queued < QUEUE_FRAMES ? malloc(sizeof(*frame) + length) : NULL;

	if (!frame) {
		from->counts.dropped++;
		return;
	}
	memcpy(frame->data, data, length);
	frame->length = length;
	frame->due_ns = due_ns;
	frame->next = NULL;
	*from->tail = frame;
	from->tail = &frame->next;
	from->queued++;
}

static void transmit(struct end *from, const uint8_t *data, uint32_t length, uint64_t now_ns)
{
	const struct link *link = from->link;
	uint64_t start_ns = from->busy_until_ns > now_ns ? from->busy_until_ns : now_ns;
	uint64_t due_ns;

	if (!link->up || start_ns - now_ns > BACKLOG_NS) {
		from->counts.dropped++;
		return;
	}
	if (link->loss_ppm && next_random() % 1000000 < link->loss_ppm) {
		from->counts.lost++;
		return;
	}
	if (link->rate_bps) {
		start_ns += (uint64_t)length * 8 * 1000000000ull / link->rate_bps;
		from->busy_until_ns = start_ns;
	}
	due_ns = start_ns + link->delay_ns;
	if (due_ns < from->last_due_ns)
		due_ns = from->last_due_ns;
	from->last_due_ns = due_ns;
	if (!from->head && due_ns <= now_ns + TOLERANCE_NS)
		deliver(from, data, length);
	else
		enqueue(from, data, length, due_ns);
}

void read_end(struct end *end)
{
	static uint8_t data[FRAME_MAX];
	uint64_t now_ns = nanoseconds(CLOCK_MONOTONIC);

	for (int i = 0; i < BATCH; i++) {
		ssize_t length = read(end->tap.fd, data, sizeof(data));

		if (length > 0) {
			transmit(end, data, (uint32_t)length, now_ns);
			continue;
		}
		/* The device went with its namespace: what stays readable for ever would spin. */
		if (length == 0 || (errno != EAGAIN && errno != EINTR))
			unwatch(&end->tap);
		return;
	}
}
