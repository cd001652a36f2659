/* Sends HTTP requests over kept-alive loopback connections from one thread, and prints what came back as JSON.
 *
 * Closed loop: every connection sends its next request when the answer to the last one is complete.
 * Open loop (--rate): requests have times, exponential gaps; one that finds no free connection waits, and its
 * latency counts from its time, not from when it was sent: a slow server cannot hide behind a patient client.
 *
 * load --port P --connections N --seconds S [--warmup S] [--rate R] [--least BYTES] [--most BYTES] REQUEST...
 * REQUEST: files that hold whole requests, head and body; they are sent in turn.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { FINE = 64, SCALES = 32, MOST_CONNECTIONS = 4096, READ_BYTES = 1 << 18, BACKLOG = 1 << 20, DRAIN_S = 2 };

typedef struct {
    char *bytes;
    size_t size;
} Request;

typedef struct {
    int fd, busy, status, dead;
    size_t sent, have, room, head, body; /* head: bytes before the body, 0 while not complete */
    int chunked, closing;
    const Request *request;
    int64_t since_ns;
    char *answer;
} Connection;

static struct {
    int port, connections;
    double seconds, warmup_s, rate;
    size_t least, most;
    Request *requests;
    int count, next;
} plan;

static struct {
    int64_t histogram[SCALES][FINE], counted, largest_ns;
    int64_t statuses[600], wrong_size, broken, refused, unfinished;
    double sum_ns;
    size_t last_body;
} found;

static Connection connections[MOST_CONNECTIONS];
static int free_list[MOST_CONNECTIONS], free_count, poller;
static int64_t *waiting, first_waiting, last_waiting; /* ring of scheduled times */
static int64_t begin_ns, count_from_ns, end_ns, next_ns;
static uint64_t seed = 88172645463325252ull;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void fail(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(2);
}

/* Buckets of 1/64 of a power of two: a percentile is off by 1.6 % at most. */
static void count_latency(int64_t ns) {
    int scale = 0;
    uint64_t value = ns < 1 ? 1 : (uint64_t)ns;
    found.sum_ns += value;
    found.counted++;
    if (ns > found.largest_ns) found.largest_ns = ns;
    while ((value >> scale) >= 2 * FINE) scale++;
    if (value < FINE) found.histogram[0][value]++;
    else if (scale + 1 < SCALES) found.histogram[scale + 1][(value >> scale) - FINE]++;
    else found.histogram[SCALES - 1][FINE - 1]++;
}

static double percentile_us(double share) {
    int64_t wanted = (int64_t)(share * found.counted), seen = 0;
    for (int s = 0; s < SCALES; s++)
        for (int f = 0; f < FINE; f++)
            if ((seen += found.histogram[s][f]) > wanted)
                return s ? (double)((uint64_t)(f + FINE) << (s - 1)) / 1e3 : f / 1e3;
    return found.largest_ns / 1e3;
}

static double random_gap_ns(void) {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    double u = ((seed >> 11) + 1) / 9007199254740993.0;
    /* -ln(u) without libm: ln(m * 2^e) by the series of atanh, 1e-7 exact, which is plenty for a gap. */
    int e = 0;
    while (u < 0.70710678) u *= 2, e--;
    double y = (u - 1) / (u + 1), y2 = y * y;
    double ln = 2 * y * (1 + y2 * (1 / 3.0 + y2 * (1 / 5.0 + y2 * (1 / 7.0 + y2 / 9)))) + e * 0.69314718056;
    return -ln * 1e9 / plan.rate;
}

static void watch(Connection *c, int how, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, how, c->fd, &event)) fail("epoll_ctl");
}

static void open_connection(Connection *c) {
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons(plan.port)};
    int one = 1;
    place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->dead = 1;
    if ((c->fd = socket(AF_INET, SOCK_STREAM, 0)) < 0) fail("socket");
    if (connect(c->fd, (struct sockaddr *)&place, sizeof place)) {
        close(c->fd);
        c->fd = -1;
        found.refused++;
        return;
    }
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    c->dead = c->busy = 0;
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
}

static void send_rest(Connection *c) {
    while (c->sent < c->request->size) {
        ssize_t n = send(c->fd, c->request->bytes + c->sent, c->request->size - c->sent, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return; /* a broken pipe shows when reading */
        }
        c->sent += n;
    }
}

static void begin_request(Connection *c, int64_t since_ns) {
    c->request = &plan.requests[plan.next];
    plan.next = (plan.next + 1) % plan.count;
    c->busy = 1;
    c->sent = c->have = c->head = 0;
    c->since_ns = since_ns;
    send_rest(c);
}

/* What a free connection does next. */
static void go_on(Connection *c, int64_t now) {
    if (!plan.rate) {
        if (now < end_ns) begin_request(c, now);
    } else if (first_waiting < last_waiting) {
        begin_request(c, waiting[first_waiting++ % BACKLOG]);
    } else {
        free_list[free_count++] = c - connections;
    }
}

static void reopen(Connection *c) {
    close(c->fd);
    open_connection(c); /* if it cannot, revive() tries again */
}

static void break_off(Connection *c, int64_t now) {
    int had = c->busy;
    c->busy = 0;
    if (had && now >= count_from_ns) found.broken++;
    for (int i = 0; !had && i < free_count; i++)
        if (free_list[i] == c - connections) free_list[i] = free_list[--free_count];
    reopen(c);
    if (!c->dead) go_on(c, now);
}

/* Fills status, head and body from the header lines; 0 while they are not complete, -1 if they are no HTTP. */
static int parse_head(Connection *c) {
    char *end = memmem(c->answer, c->have, "\r\n\r\n", 4);
    if (!end) return 0;
    if (c->have < 12 || memcmp(c->answer, "HTTP/1.1 ", 9)) return -1;
    c->status = atoi(c->answer + 9);
    c->body = 0;
    c->chunked = c->closing = 0;
    c->head = end + 4 - c->answer;
    for (char *line = c->answer; line < end; line++) {
        line = memchr(line, '\n', end + 2 - line);
        if (!line) break;
        if (!strncasecmp(line + 1, "content-length:", 15)) c->body = strtoull(line + 16, NULL, 10);
        if (!strncasecmp(line + 1, "transfer-encoding:", 18)) c->chunked = 1;
        if (!strncasecmp(line + 1, "connection: close", 17)) c->closing = 1;
    }
    return 1;
}

/* Whether the answer is all there. A chunked one is when it ends in an empty chunk: its size is that of all chunks. */
static int complete(Connection *c) {
    if (!c->chunked) return c->have >= c->head + c->body;
    size_t at = c->head, sum = 0;
    for (;;) {
        char *line = memmem(c->answer + at, c->have - at, "\r\n", 2);
        if (!line) return 0;
        size_t size = strtoull(c->answer + at, NULL, 16);
        at = line + 2 - c->answer + size + 2;
        if (at > c->have) return 0;
        sum += size;
        if (!size) break;
    }
    c->body = sum;
    return 1;
}

static void take_answer(Connection *c, int64_t now) {
    int counts = plan.rate ? c->since_ns >= count_from_ns : now >= count_from_ns && now < end_ns;
    if (counts) {
        found.statuses[c->status > 0 && c->status < 600 ? c->status : 0]++;
        count_latency(now - c->since_ns);
        if (c->status == 200 && (c->body < plan.least || c->body > plan.most)) found.wrong_size++;
        found.last_body = c->body;
    }
    c->busy = 0;
    if (c->closing) reopen(c);
    if (!c->dead) go_on(c, now);
}

static void read_answer(Connection *c) {
    for (;;) {
        if (c->room - c->have < 4096) {
            c->room = c->room ? c->room * 2 : READ_BYTES;
            if (!(c->answer = realloc(c->answer, c->room))) fail("memory");
        }
        ssize_t n = recv(c->fd, c->answer + c->have, c->room - c->have - 1, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) return break_off(c, now_ns());
        c->have += n;
        c->answer[c->have] = 0;
        if (!c->head && parse_head(c) < 0) return break_off(c, now_ns());
        if (c->head && complete(c)) return c->busy ? take_answer(c, now_ns()) : (void)0;
    }
}

static void schedule(int64_t now) {
    while (plan.rate && next_ns <= now && next_ns < end_ns) {
        if (last_waiting - first_waiting >= BACKLOG) fail("the server is so far behind that the backlog is full");
        waiting[last_waiting++ % BACKLOG] = next_ns;
        next_ns += (int64_t)random_gap_ns();
    }
    while (free_count && first_waiting < last_waiting)
        begin_request(&connections[free_list[--free_count]], waiting[first_waiting++ % BACKLOG]);
}

static void revive(int64_t now) {
    for (int i = 0; i < plan.connections; i++)
        if (connections[i].dead) {
            open_connection(&connections[i]);
            if (!connections[i].dead) go_on(&connections[i], now);
        }
}

static int under_way(void) {
    for (int i = 0; i < plan.connections; i++)
        if (connections[i].busy) return 1;
    return first_waiting < last_waiting;
}

static void turn(struct epoll_event *events, int64_t now) {
    int64_t wait_ns = 50000000;
    if (plan.rate && next_ns < end_ns && next_ns - now < wait_ns) wait_ns = next_ns > now ? next_ns - now : 0;
    struct timespec patience = {0, wait_ns};
    int n = epoll_pwait2(poller, events, 256, &patience, NULL);
    for (int i = 0; i < n; i++) {
        Connection *c = events[i].data.ptr;
        if (events[i].events & EPOLLOUT) {
            watch(c, EPOLL_CTL_MOD, EPOLLIN);
            send_rest(c);
        }
        if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) read_answer(c);
    }
}

static void run(void) {
    static struct epoll_event events[256];
    int64_t last_look = begin_ns;
    for (int i = 0; i < plan.connections; i++) {
        open_connection(&connections[i]);
        if (connections[i].dead) fail("connect");
        go_on(&connections[i], now_ns());
    }
    for (int64_t now = now_ns(); now < end_ns + DRAIN_S * 1000000000ll; now = now_ns()) {
        schedule(now);
        if (now >= end_ns && (!plan.rate || !under_way())) break;
        turn(events, now);
        if (now - last_look > 20000000) revive(last_look = now);
    }
    /* What never got its answer counts with the time that it has waited: leaving it out would hide the worst. */
    for (int64_t i = first_waiting; i < last_waiting; i++, found.unfinished++)
        count_latency(now_ns() - waiting[i % BACKLOG]);
    for (int i = 0; plan.rate && i < plan.connections; i++)
        if (connections[i].busy) found.unfinished++, count_latency(now_ns() - connections[i].since_ns);
}

static void print_found(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double cpu_s = used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    double counted_s = plan.seconds;
    const char *comma = "";
    printf("{\"ok\": %lld, \"requests_per_s\": %.2f, \"statuses\": {", (long long)found.statuses[200],
           found.statuses[200] / counted_s);
    for (int s = 0; s < 600; s++)
        if (found.statuses[s]) printf("%s\"%d\": %lld", comma, s, (long long)found.statuses[s]), comma = ", ";
    printf("}, \"wrong_size\": %lld, \"broken\": %lld, \"refused\": %lld, \"unfinished\": %lld",
           (long long)found.wrong_size, (long long)found.broken, (long long)found.refused, (long long)found.unfinished);
    printf(", \"last_body_bytes\": %zu", found.last_body);
    printf(", \"mean_us\": %.1f", found.counted ? found.sum_ns / found.counted / 1e3 : 0.0);
    printf(", \"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f",
           percentile_us(.5), percentile_us(.9), percentile_us(.99), percentile_us(.999), found.largest_ns / 1e3);
    printf(", \"client_cores\": %.3f}\n", cpu_s / (plan.seconds + plan.warmup_s));
}

static Request read_request(const char *path) {
    struct stat about;
    FILE *file = fopen(path, "rb");
    if (!file || fstat(fileno(file), &about)) fail(path);
    Request r = {malloc(about.st_size), about.st_size};
    if (!r.bytes || fread(r.bytes, 1, r.size, file) != r.size) fail(path);
    fclose(file);
    return r;
}

static void read_plan(int words, char **word) {
    plan.warmup_s = 0.3;
    plan.most = SIZE_MAX;
    plan.requests = calloc(words, sizeof(Request));
    for (int i = 1; i < words; i++) {
        if (strncmp(word[i], "--", 2)) {
            plan.requests[plan.count++] = read_request(word[i]);
            continue;
        }
        double value = i + 1 < words ? atof(word[i + 1]) : 0;
        const char *name = word[i++] + 2;
        if (!strcmp(name, "port")) plan.port = value;
        else if (!strcmp(name, "connections")) plan.connections = value;
        else if (!strcmp(name, "seconds")) plan.seconds = value;
        else if (!strcmp(name, "warmup")) plan.warmup_s = value;
        else if (!strcmp(name, "rate")) plan.rate = value;
        else if (!strcmp(name, "least")) plan.least = value;
        else if (!strcmp(name, "most")) plan.most = value;
        else errno = EINVAL, fail(name);
    }
    int right = plan.count && plan.port > 0 && plan.connections > 0 && plan.connections <= MOST_CONNECTIONS;
    if (!right || plan.seconds <= 0) errno = EINVAL, fail("--port, --connections, --seconds and a request are needed");
}

int main(int words, char **word) {
    read_plan(words, word);
    prctl(PR_SET_TIMERSLACK, 1);
    poller = epoll_create1(0);
    waiting = plan.rate ? malloc(BACKLOG * sizeof *waiting) : NULL;
    begin_ns = next_ns = now_ns();
    count_from_ns = begin_ns + (int64_t)(plan.warmup_s * 1e9);
    end_ns = count_from_ns + (int64_t)(plan.seconds * 1e9);
    run();
    print_found();
    return 0;
}
