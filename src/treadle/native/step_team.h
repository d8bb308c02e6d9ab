/* Threads that walk through one step together: each does its share of a phase, then all meet. A team spins for a while
 * before it sleeps, because the next step mostly comes at once. Threads do not survive fork(): in a child the team starts
 * anew at its first call. */

#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

enum { MAX_TEAM = 64 };

typedef struct Team {
    int count;
    atomic_int arrived, phase, turn, is_closing;
    void (*work)(struct Team *, int);
    void *job;
    pthread_mutex_t mutex;
    pthread_cond_t woken;
    pthread_t threads[MAX_TEAM];
    pid_t process; /* where they run */
} Team;


#pragma GCC visibility push(hidden)

/* Starts the threads and returns the number of members, which is smaller than asked for if the system refuses some. */
int open_team(Team *team, int count, void (*work)(Team *, int));

/* Runs `work` in every member; the caller is member 0. */
void run_team(Team *team, void *job);

/* Returns when all members have called it. */
void meet(Team *team);

void close_team(Team *team);

#pragma GCC visibility pop
