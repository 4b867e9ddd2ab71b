/* What the parts of the relay share; relay.c says what it is. */
#ifndef NETSTITCH_RELAY_H
#define NETSTITCH_RELAY_H

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#define LINKS       256
#define CLIENTS     32
#define COMMAND_MAX 4608 /* a path and the words before it */

struct frame {
	struct frame *next;
	uint64_t due_ns;
	uint32_t length;
	uint8_t data[];
};

enum kind {
	END,
	LISTENER,
	CLIENT
};

/* First member of what epoll points to. */
struct source {
	enum kind kind;
	int fd;
};

struct counts {
	uint64_t packets, bytes; /* delivered to the other end */
	uint64_t lost;           /* by the link's loss */
	uint64_t dropped;        /* backlog, no carrier, or refused by the other end's device */
};

/* One end, with the direction that starts there. */
struct end {
	struct source tap;
	int query; /* a socket of the namespace, for questions about the device */
	char device[IFNAMSIZ];
	struct link *link;
	struct end *peer;
	struct frame *head, **tail;
	uint32_t queued;
	uint64_t busy_until_ns; /* until then earlier frames use the link */
	uint64_t last_due_ns;   /* frames never overtake each other, also when the delay shrinks */
	struct counts counts;
};

struct link {
	char name[64];
	uint64_t delay_ns, rate_bps;
	uint32_t loss_ppm;
	bool up;
	struct client *capture;
	struct end ends[2];
};

/* One command; stays while its capture runs. */
struct client {
	struct source source; /* fd < 0: free */
	char command[COMMAND_MAX];
	size_t length;
	struct link *captured;
	FILE *file;
	uint64_t remaining, frames, until_ns;
};

/* relay.c */
extern struct link *links[LINKS];
extern unsigned link_count;
struct link *find_link(const char *name);
uint64_t nanoseconds(clockid_t clock);
bool watch(struct source *source); /* calls what its kind says when it can be read */
void unwatch(struct source *source);

/* relay_frames.c: what goes over a link. */
void read_end(struct end *end);                      /* takes what the end's device sends */
void deliver_due(struct end *from, uint64_t now_ns); /* sends on what has waited long enough */
void discard(struct end *from);                      /* forgets what waits */

/* relay_device.c: the TAP device of an end; false: errno says why. */
bool open_end(struct end *end, long pid, const char *device, const uint8_t mac[6], int mtu);
void close_end(struct end *end);
bool set_carrier(struct end *end, bool up);

/* relay_capture.c */
bool begin_capture(struct client *client, struct link *link, const char *path, uint64_t count, double seconds);
void record(struct client *client, const uint8_t *data, uint32_t length);
void end_capture(struct client *client); /* and answers */

/* relay_control.c: who asks, and the answer, which is the end of the connection. */
extern struct client clients[CLIENTS];
int listen_at(const char *path);
void accept_client(int listener);
void read_client(struct client *client);
void answer(struct client *client, const char *text);
void refuse(struct client *client, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* relay_command.c */
void execute(struct client *client);

#endif
