/* Replaces the resolver of the system for names.rs, by LD_PRELOAD. Every name resolves to the addresses
   in TEST_ADDRESSES, separated by spaces, after TEST_DELAY_MS milliseconds. If TEST_SLOW_NAME is set,
   the delay applies to that name only. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int resolve(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
    resolve *system = (resolve *)dlsym(RTLD_NEXT, "getaddrinfo");
    const char *addresses = getenv("TEST_ADDRESSES"), *delay = getenv("TEST_DELAY_MS");
    if (!addresses || !delay)
        return system(name, service, hints, found);
    const char *slow = getenv("TEST_SLOW_NAME");
    if (!slow || !strcmp(slow, name))
        usleep(1000 * (useconds_t)atoi(delay));
    struct addrinfo numeric = {0}, **last = found;
    if (hints)
        numeric = *hints;
    numeric.ai_flags = AI_NUMERICHOST;
    *found = NULL;
    char *words = strdup(addresses), *rest = NULL;
    for (char *word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        /* Concatenate the lists; freeaddrinfo accepts the result. */
        if (system(word, service, &numeric, last) == 0)
            for (; *last; last = &(*last)->ai_next)
                ;
    }
    free(words);
    return *found ? 0 : EAI_NONAME;
}
