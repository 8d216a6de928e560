/* Fault injection library for LD_PRELOAD: wraps system calls of the C library. The fields of the faults
   are those of machine.rs. */

#include "../common/faults.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

enum {
    CLOCK_STEP,
    ACCEPT_ERRNO,
    ACCEPT_TIMES,
    ACCEPTED_IN_TURN,
    IO_ERRNO,
    IO_TIMES,
    SENT_IN_TURN,
};

static int64_t accepted_in_turn, sent_in_turn;

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*system)(clockid_t, struct timespec *);
    if (!system)
        system = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = system(clock, now);
    if (clock == CLOCK_REALTIME)
        now->tv_sec += faults[CLOCK_STEP];
    return result;
}

int epoll_wait(int epoll, struct epoll_event *events, int capacity, int timeout) {
    static int (*system)(int, struct epoll_event *, int, int);
    if (!system)
        system = (int (*)(int, struct epoll_event *, int, int))dlsym(RTLD_NEXT, "epoll_wait");
    accepted_in_turn = sent_in_turn = 0;
    return system(epoll, events, capacity, timeout);
}

int accept4(int listener, struct sockaddr *address, socklen_t *length, int flags) {
    static int (*system)(int, struct sockaddr *, socklen_t *, int);
    if (!system)
        system = (int (*)(int, struct sockaddr *, socklen_t *, int))dlsym(RTLD_NEXT, "accept4");
    if (must_fail(ACCEPT_ERRNO, ACCEPT_TIMES))
        return -1;
    int accepted = system(listener, address, length, flags);
    if (accepted >= 0 && ++accepted_in_turn > faults[ACCEPTED_IN_TURN])
        faults[ACCEPTED_IN_TURN] = accepted_in_turn;
    return accepted;
}

ssize_t recv(int socket, void *bytes, size_t length, int flags) {
    static ssize_t (*system)(int, void *, size_t, int);
    if (!system)
        system = (ssize_t (*)(int, void *, size_t, int))dlsym(RTLD_NEXT, "recv");
    return must_fail(IO_ERRNO, IO_TIMES) ? -1 : system(socket, bytes, length, flags);
}

ssize_t send(int socket, const void *bytes, size_t length, int flags) {
    static ssize_t (*system)(int, const void *, size_t, int);
    if (!system)
        system = (ssize_t (*)(int, const void *, size_t, int))dlsym(RTLD_NEXT, "send");
    if (must_fail(IO_ERRNO, IO_TIMES))
        return -1;
    ssize_t sent = system(socket, bytes, length, flags);
    if (sent > 0 && (sent_in_turn += sent) > faults[SENT_IN_TURN])
        faults[SENT_IN_TURN] = sent_in_turn;
    return sent;
}
