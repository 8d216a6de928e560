/* Fault injection library for LD_PRELOAD: makes operations on the files of a storage slow or fail. The
   fields of the faults are those of main.rs. */

#include "../common/faults.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum {
    HOLD,        /* syncs wait while this is 1; those of snapshots while it is 2 */
    SYNC_ERRNO,  /* error of failing syncs of segments with records */
    SYNC_TIMES,  /* number of these that still fail */
    WRITE_ERRNO, /* error of failing writes to segments */
    WRITE_TIMES, /* number of these that still fail */
    OPEN_ERRNO,  /* error of opening segments for reading, negative: the manifest; 0: none */
    WAITING,     /* syncs that wait at present */
};

static int ends_with(const char *path, const char *end) {
    size_t length = strlen(path), rest = strlen(end);
    return length >= rest && strcmp(path + length - rest, end) == 0;
}

/* Returns whether the name of the file behind a descriptor, a segment or a snapshot, ends like this. */
static int is(int fd, const char *end) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return strstr(path, "/data/") && ends_with(path, end);
}

/* Returns whether a segment holds records, unlike one that has just been created. */
static int has_records(int fd) {
    char link[64], head[1024];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int copy = open(link, O_RDONLY | O_CLOEXEC);
    ssize_t length = pread(copy, head, sizeof head, 0);
    close(copy);
    return length > 0 && memmem(head, (size_t)length, " AT ", 4) != NULL;
}

int fdatasync(int fd) {
    static int (*system)(int);
    if (!system)
        system = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    struct timespec moment = {0, 1000000};
    int is_log = is(fd, ".log"), is_snapshot = is(fd, ".snap");
    if (is_log || is_snapshot) {
        __atomic_add_fetch(&faults[WAITING], 1, __ATOMIC_SEQ_CST);
        while (faults[HOLD] == 1 || (faults[HOLD] == 2 && is_snapshot))
            nanosleep(&moment, NULL);
        __atomic_sub_fetch(&faults[WAITING], 1, __ATOMIC_SEQ_CST);
    }
    return is_log && faults[SYNC_TIMES] > 0 && has_records(fd) && must_fail(SYNC_ERRNO, SYNC_TIMES)
               ? -1
               : system(fd);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
    static ssize_t (*system)(int, const void *, size_t, off64_t);
    if (!system)
        system = (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    if (faults[WRITE_TIMES] > 0 && is(fd, ".log") && must_fail(WRITE_ERRNO, WRITE_TIMES))
        return -1;
    return system(fd, bytes, length, offset);
}

int open64(const char *path, int flags, ...) {
    static int (*system)(const char *, int, ...);
    if (!system)
        system = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
    int error = (int)faults[OPEN_ERRNO];
    const char *end = error < 0 ? "/MANIFEST" : ".log";
    if (error && (flags & O_ACCMODE) == O_RDONLY && ends_with(path, end) && strstr(path, "data/")) {
        errno = error < 0 ? -error : error;
        return -1;
    }
    __builtin_va_list arguments;
    __builtin_va_start(arguments, flags);
    mode_t mode = flags & O_CREAT ? __builtin_va_arg(arguments, mode_t) : 0;
    __builtin_va_end(arguments);
    return system(path, flags, mode);
}
