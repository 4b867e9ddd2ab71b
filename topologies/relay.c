/*
 * relay SOCKET: the links between the nodes of one lab.
 *
 * A link is a pair of TAP devices, one in the network namespace of each node; this process reads what one end sends
 * and writes it to the other when it is due. netem cannot do that here: XDP redirect bypasses the qdiscs of the egress
 * device, and not every kernel has netem.
 *
 *     node a          relay: loss, rate, delay             node b
 *    XDP ─▶ TAP ─read─▶ [frame, due_ns] [..] ... ─write─▶ TAP ─▶ XDP
 *
 * SOCKET (unix, stream) takes one command a connection and answers one line of JSON ({"ok": false, "error": "..."} when
 * it cannot):
 *
 *     add LINK PID DEVICE MAC PID DEVICE MAC MTU    TAP devices in the namespaces of these processes, up
 *     set LINK DELAY_US RATE_KBIT LOSS_PPM          each direction; 0: none, unlimited, none
 *     down LINK | up LINK                           carrier of both ends; what is under way is lost
 *     stats                                         state and counts of every link
 *     capture LINK COUNT SECONDS FILE               what crosses it, both directions, as pcap with nanoseconds
 *
 * It ends with SIGTERM, and with it its devices.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/ethtool.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define LINKS          256
#define CLIENTS        32
#define FRAME_MAX      9216
#define COMMAND_MAX    4608 /* a path and the words before it */
#define BATCH          64   /* frames read from one end before others get their turn */
#define QUEUE_FRAMES   16384
#define DEVICE_QUEUE   4096        /* frames that a TAP holds until they are read */
#define BACKLOG_NS     50000000ull /* what waits longer for its turn on a slow link is dropped, as a full port would */
#define TOLERANCE_NS   20000ull    /* sent this much early rather than woken up for */
#define CAPTURE_BUFFER (1 << 20)   /* so that the disk is not waited for with each frame */

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

static struct link *links[LINKS];
static unsigned link_count;
static struct client clients[CLIENTS];
static int poller, own_namespace;
static uint64_t random_state;
static volatile sig_atomic_t stopping;

static void stop(int signal)
{
	(void)signal;
	stopping = 1;
}

static uint64_t nanoseconds(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* xorshift64 (Marsaglia 2003): loss needs no better. */
static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static bool watch(struct source *source)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = source};

	return epoll_ctl(poller, EPOLL_CTL_ADD, source->fd, &event) == 0;
}

/* ---- answers ---- */

static void send_all(int fd, const char *text, size_t length)
{
	while (length > 0) {
		ssize_t sent = send(fd, text, length, MSG_NOSIGNAL);

		if (sent <= 0)
			return; /* who asked is gone */
		text += sent;
		length -= (size_t)sent;
	}
}

static void hang_up(struct client *client)
{
	close(client->source.fd);
	client->source.fd = -1;
}

static void answer(struct client *client, const char *text)
{
	send_all(client->source.fd, text, strlen(text));
	hang_up(client);
}

static void refuse(struct client *client, const char *format, ...)
{
	char reason[COMMAND_MAX], text[2 * COMMAND_MAX + 64], *to = text;
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(reason, sizeof(reason), format, arguments);
	va_end(arguments);
	to += sprintf(to, "{\"ok\": false, \"error\": \"");
	for (const char *from = reason; *from; from++) {
		if ((uint8_t)*from < ' ')
			continue;
		if (*from == '"' || *from == '\\')
			*to++ = '\\';
		*to++ = *from;
	}
	strcpy(to, "\"}\n");
	answer(client, text);
}

/* ---- capture ---- */

/* libpcap's savefile format (pcap-savefile(5)), magic of nanosecond resolution, Ethernet. */
static bool begin_capture(struct client *client, const char *path)
{
	const uint32_t header[] = {0xa1b23c4d, 2 | 4 << 16, 0, 0, 65535, 1};

	client->file = fopen(path, "we");
	if (!client->file)
		return false;
	setvbuf(client->file, NULL, _IOFBF, CAPTURE_BUFFER);
	return fwrite(header, sizeof(header), 1, client->file) == 1;
}

static void end_capture(struct client *client)
{
	struct link *link = client->captured;
	char text[64];
	bool written = !ferror(client->file);

	link->capture = NULL;
	client->captured = NULL;
	written = fclose(client->file) == 0 && written;
	if (!written) {
		refuse(client, "capture on %s: the file could not be written: %s", link->name, strerror(errno));
		return;
	}
	snprintf(text, sizeof(text), "{\"ok\": true, \"frames\": %" PRIu64 "}\n", client->frames);
	answer(client, text);
}

static void record(struct client *client, const uint8_t *data, uint32_t length)
{
	uint64_t time_ns = nanoseconds(CLOCK_REALTIME);
	const uint32_t header[] = {(uint32_t)(time_ns / 1000000000ull), (uint32_t)(time_ns % 1000000000ull), length,
				   length};

	fwrite(header, sizeof(header), 1, client->file);
	fwrite(data, length, 1, client->file);
	client->frames++;
	if (--client->remaining == 0)
		end_capture(client);
}

/* ---- frames ---- */

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

static void deliver_due(struct end *from, uint64_t now_ns)
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

static void discard(struct end *from)
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

static void read_end(struct end *end)
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
			epoll_ctl(poller, EPOLL_CTL_DEL, end->tap.fd, NULL);
		return;
	}
}

/* Delivers what is due; returns when the next is (CLOCK_MONOTONIC), UINT64_MAX: nothing waits. */
static uint64_t service(void)
{
	uint64_t now_ns = nanoseconds(CLOCK_MONOTONIC), next_ns = UINT64_MAX;

	for (unsigned i = 0; i < link_count; i++)
		for (int k = 0; k < 2; k++) {
			struct end *end = &links[i]->ends[k];

			if (!end->head)
				continue;
			deliver_due(end, now_ns);
			if (end->head && end->head->due_ns < next_ns)
				next_ns = end->head->due_ns;
		}
	for (int i = 0; i < CLIENTS; i++) {
		struct client *client = &clients[i];

		if (client->source.fd < 0 || !client->captured)
			continue;
		if (client->until_ns <= now_ns)
			end_capture(client);
		else if (client->until_ns < next_ns)
			next_ns = client->until_ns;
	}
	return next_ns;
}

/* ---- devices ---- */

static bool enter(long pid)
{
	char path[64];
	int fd, result;

	snprintf(path, sizeof(path), "/proc/%ld/ns/net", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	result = setns(fd, CLONE_NEWNET);
	close(fd);
	return result == 0;
}

static bool configure_device(const struct end *end, const uint8_t mac[6], int mtu)
{
	struct ifreq request = {0};

	memcpy(request.ifr_name, end->device, IFNAMSIZ);
	request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
	memcpy(request.ifr_hwaddr.sa_data, mac, 6);
	if (ioctl(end->query, SIOCSIFHWADDR, &request))
		return false;
	request.ifr_mtu = mtu;
	if (ioctl(end->query, SIOCSIFMTU, &request))
		return false;
	request.ifr_qlen = DEVICE_QUEUE;
	if (ioctl(end->query, SIOCSIFTXQLEN, &request))
		return false;
	if (ioctl(end->query, SIOCGIFFLAGS, &request))
		return false;
	request.ifr_flags |= IFF_UP;
	return ioctl(end->query, SIOCSIFFLAGS, &request) == 0;
}

/* Makes the device in the namespace of `pid`; comes back to the own one. */
static bool open_end(struct end *end, long pid, const char *device, const uint8_t mac[6], int mtu)
{
	struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
	bool made = false;

	end->tap = (struct source){.kind = END, .fd = -1};
	end->query = -1;
	end->tail = &end->head;
	snprintf(end->device, sizeof(end->device), "%s", device);
	memcpy(request.ifr_name, end->device, IFNAMSIZ);
	if (enter(pid)) {
		end->tap.fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
		end->query = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		made = end->tap.fd >= 0 && end->query >= 0 && !ioctl(end->tap.fd, TUNSETIFF, &request) &&
		       configure_device(end, mac, mtu) && watch(&end->tap);
	}
	if (setns(own_namespace, CLONE_NEWNET)) {
		perror("relay: cannot return to its network namespace");
		exit(1);
	}
	return made;
}

/* The kernel reports carrier changes late and at most once a second, unless somebody asks for the link (ETHTOOL_GLINK). */
static bool set_carrier(struct end *end, bool up)
{
	struct ethtool_value value = {.cmd = ETHTOOL_GLINK};
	struct ifreq request = {.ifr_data = (char *)&value};
	int carrier = up;

	memcpy(request.ifr_name, end->device, IFNAMSIZ);
	if (ioctl(end->tap.fd, TUNSETCARRIER, &carrier))
		return false;
	return ioctl(end->query, SIOCETHTOOL, &request) == 0;
}

/* ---- commands ---- */

static struct link *find_link(const char *name)
{
	for (unsigned i = 0; i < link_count; i++)
		if (strcmp(links[i]->name, name) == 0)
			return links[i];
	return NULL;
}

static bool parse_mac(const char *text, uint8_t mac[6])
{
	char rest;

	return sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%c", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4],
		      &mac[5], &rest) == 6;
}

static void close_end(struct end *end)
{
	if (end->tap.fd >= 0)
		close(end->tap.fd);
	if (end->query >= 0)
		close(end->query);
}

static void command_add(struct client *client, const char *arguments)
{
	char name[64], devices[2][IFNAMSIZ], macs[2][18];
	uint8_t mac[2][6];
	struct link *link;
	long pids[2];
	int mtu;

	if (sscanf(arguments, "%63s %ld %15s %17s %ld %15s %17s %d", name, &pids[0], devices[0], macs[0], &pids[1],
		   devices[1], macs[1], &mtu) != 8 ||
	    !parse_mac(macs[0], mac[0]) || !parse_mac(macs[1], mac[1]) || mtu < 68 || mtu > 9000) {
		refuse(client, "add: expected LINK PID DEVICE MAC PID DEVICE MAC MTU (68 to 9000), got: %s", arguments);
		return;
	}
	if (find_link(name) || link_count == LINKS) {
		refuse(client, "add %s: %s", name, find_link(name) ? "is there already" : "too many links");
		return;
	}
	link = calloc(1, sizeof(*link));
	if (!link) {
		refuse(client, "add %s: no memory", name);
		return;
	}
	memcpy(link->name, name, sizeof(name));
	link->up = true;
	for (int k = 0; k < 2; k++) {
		link->ends[k].link = link;
		link->ends[k].peer = &link->ends[!k];
		if (open_end(&link->ends[k], pids[k], devices[k], mac[k], mtu))
			continue;
		refuse(client, "add %s: TAP device %s in the namespace of process %ld: %s", name, devices[k], pids[k],
		       strerror(errno));
		for (; k >= 0; k--)
			close_end(&link->ends[k]);
		free(link);
		return;
	}
	links[link_count++] = link;
	answer(client, "{\"ok\": true}\n");
}

static void command_set(struct client *client, const char *arguments)
{
	uint64_t delay_us, rate_kbit;
	struct link *link;
	uint32_t loss_ppm;
	char name[64];

	if (sscanf(arguments, "%63s %" SCNu64 " %" SCNu64 " %" SCNu32, name, &delay_us, &rate_kbit, &loss_ppm) != 4 ||
	    delay_us > 10000000 || rate_kbit > 1000000000 || loss_ppm > 1000000) {
		refuse(client,
		       "set: expected LINK DELAY_US (to 10 s) RATE_KBIT (to 1 Tbit/s) LOSS_PPM (to 1000000), got: %s",
		       arguments);
		return;
	}
	link = find_link(name);
	if (!link) {
		refuse(client, "set %s: no such link", name);
		return;
	}
	link->delay_ns = delay_us * 1000;
	link->rate_bps = rate_kbit * 1000;
	link->loss_ppm = loss_ppm;
	answer(client, "{\"ok\": true}\n");
}

static void command_carrier(struct client *client, const char *name, bool up)
{
	struct link *link = find_link(name);

	if (!link) {
		refuse(client, "%s %s: no such link", up ? "up" : "down", name);
		return;
	}
	link->up = up;
	for (int k = 0; k < 2; k++) {
		discard(&link->ends[k]);
		if (!set_carrier(&link->ends[k], up)) {
			refuse(client, "carrier of %s: %s", link->ends[k].device, strerror(errno));
			return;
		}
	}
	answer(client, "{\"ok\": true}\n");
}

static void command_stats(struct client *client)
{
	char *text = NULL;
	size_t length;
	FILE *out = open_memstream(&text, &length);

	if (!out) {
		refuse(client, "stats: no memory");
		return;
	}
	fprintf(out, "{\"ok\": true, \"links\": {");
	for (unsigned i = 0; i < link_count; i++) {
		const struct link *link = links[i];

		fprintf(out,
			"%s\"%s\": {\"up\": %s, \"delay_us\": %" PRIu64 ", \"rate_kbit\": %" PRIu64
			", \"loss_ppm\": %" PRIu32,
			i ? ", " : "", link->name, link->up ? "true" : "false", link->delay_ns / 1000,
			link->rate_bps / 1000, link->loss_ppm);
		for (int k = 0; k < 2; k++) {
			const struct counts *counts = &link->ends[k].counts;

			fprintf(out,
				", \"%s\": {\"packets\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"lost\": %" PRIu64
				", \"dropped\": %" PRIu64 "}",
				k ? "b" : "a", counts->packets, counts->bytes, counts->lost, counts->dropped);
		}
		fprintf(out, "}");
	}
	fprintf(out, "}}\n");
	if (fclose(out) == 0)
		answer(client, text);
	else
		refuse(client, "stats: no memory");
	free(text);
}

static void command_capture(struct client *client, const char *arguments)
{
	uint64_t count;
	struct link *link;
	double seconds;
	char name[64];
	int path = 0;

	if (sscanf(arguments, "%63s %" SCNu64 " %lf %n", name, &count, &seconds, &path) != 3 || path == 0 ||
	    arguments[path] != '/' || count == 0 || !(seconds > 0 && seconds <= 86400)) {
		refuse(client, "capture: expected LINK COUNT SECONDS FILE (from /), got: %s", arguments);
		return;
	}
	link = find_link(name);
	if (!link) {
		refuse(client, "capture %s: no such link", name);
		return;
	}
	if (link->capture) {
		refuse(client, "capture %s: one is running there already", name);
		return;
	}
	if (!begin_capture(client, arguments + path)) {
		refuse(client, "capture %s: %s: %s", name, arguments + path, strerror(errno));
		return;
	}
	client->captured = link;
	client->remaining = count;
	client->frames = 0;
	client->until_ns = nanoseconds(CLOCK_MONOTONIC) + (uint64_t)(seconds * 1e9);
	link->capture = client;
}

static void execute(struct client *client)
{
	char *arguments = strchr(client->command, ' ');
	const char *verb = client->command;

	if (arguments)
		*arguments++ = 0;
	else
		arguments = strchr(client->command, 0);
	if (strcmp(verb, "add") == 0)
		command_add(client, arguments);
	else if (strcmp(verb, "set") == 0)
		command_set(client, arguments);
	else if (strcmp(verb, "down") == 0 || strcmp(verb, "up") == 0)
		command_carrier(client, arguments, *verb == 'u');
	else if (strcmp(verb, "stats") == 0)
		command_stats(client);
	else if (strcmp(verb, "capture") == 0)
		command_capture(client, arguments);
	else
		refuse(client, "unknown command %s: add, set, down, up, stats and capture are known", verb);
}

static void read_client(struct client *client)
{
	ssize_t length = recv(client->source.fd, client->command + client->length,
			      sizeof(client->command) - 1 - client->length, MSG_DONTWAIT);
	char *end;

	if (length < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (client->captured) {
		/* Nothing is to be said during a capture; who hangs up ends it. */
		end_capture(client);
		return;
	}
	if (length <= 0) {
		hang_up(client);
		return;
	}
	client->length += (size_t)length;
	client->command[client->length] = 0;
	end = strchr(client->command, '\n');
	if (end) {
		*end = 0;
		execute(client);
	} else if (client->length == sizeof(client->command) - 1) {
		refuse(client, "the command is longer than %zu", sizeof(client->command) - 2);
	}
}

static void accept_client(int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

	if (fd < 0)
		return;
	for (int i = 0; i < CLIENTS; i++) {
		struct client *client = &clients[i];

		if (client->source.fd >= 0)
			continue;
		memset(client, 0, sizeof(*client));
		client->source = (struct source){.kind = CLIENT, .fd = fd};
		if (!watch(&client->source))
			hang_up(client);
		return;
	}
	close(fd); /* all are busy: the caller sees the end of file */
}

static int listen_at(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (strlen(path) >= sizeof(address.sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	strcpy(address.sun_path, path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, CLIENTS))
		return -1;
	return fd;
}

static void dispatch(struct source *source)
{
	switch (source->kind) {
	case END:
		read_end((struct end *)source);
		break;
	case LISTENER:
		accept_client(source->fd);
		break;
	case CLIENT:
		if (source->fd >= 0)
			read_client((struct client *)source);
		break;
	}
}

static void run(void)
{
	struct epoll_event events[64];

	while (!stopping) {
		uint64_t next_ns = service(), now_ns = nanoseconds(CLOCK_MONOTONIC);
		uint64_t wait_ns = next_ns > now_ns ? next_ns - now_ns : 0;
		struct timespec wait = {.tv_sec = (time_t)(wait_ns / 1000000000ull),
					.tv_nsec = (long)(wait_ns % 1000000000ull)};
		int ready = epoll_pwait2(poller, events, 64, next_ns == UINT64_MAX ? NULL : &wait, NULL);

		for (int i = 0; i < ready; i++) {
			dispatch(events[i].data.ptr);
			if (i + 1 < ready)
				service();
		}
	}
}

int main(int argc, char **argv)
{
	struct source listener = {.kind = LISTENER};

	if (argc != 2) {
		fprintf(stderr, "usage: relay SOCKET\n");
		return 2;
	}
	signal(SIGTERM, stop);
	signal(SIGINT, stop);
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_TIMERSLACK, 1ul);
	setpriority(PRIO_PROCESS, 0,
		    -10); /* late frames are false delay; without the right to it, they are a bit later */
	while (!random_state)
		if (getrandom(&random_state, sizeof(random_state), 0) < 0) {
			perror("relay: getrandom");
			return 1;
		}
	for (int i = 0; i < CLIENTS; i++)
		clients[i].source.fd = -1;
	poller = epoll_create1(EPOLL_CLOEXEC);
	own_namespace = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	listener.fd = listen_at(argv[1]);
	if (poller < 0 || own_namespace < 0 || listener.fd < 0 || !watch(&listener)) {
		fprintf(stderr, "relay: %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	run();
	unlink(argv[1]);
	return 0;
}
