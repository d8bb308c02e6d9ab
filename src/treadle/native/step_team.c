/* See step_team.h. */

#include "step_team.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { SPINS = 20000 };

typedef struct {
    Team *team;
    int id;
} Member;

static inline void relax(int round) {
#if defined(__x86_64__)
    if (round % 64) {
        _mm_pause();
        return;
    }
#endif
    sched_yield();
}

void meet(Team *team) {
    if (team->count == 1) return;
    int phase = atomic_load(&team->phase);
    if (atomic_fetch_add(&team->arrived, 1) + 1 == team->count) {
        atomic_store(&team->arrived, 0);
        atomic_store(&team->phase, phase + 1);
        return;
    }
    for (int round = 1; atomic_load(&team->phase) == phase; round++) relax(round);
}

static void *member_loop(void *argument) {
    Member member = *(Member *)argument;
    free(argument);
    Team *team = member.team;
    for (int seen = 0;;) {
        for (int round = 1; round < SPINS && atomic_load(&team->turn) == seen; round++) relax(round);
        if (atomic_load(&team->turn) == seen) {
            pthread_mutex_lock(&team->mutex);
            while (atomic_load(&team->turn) == seen) pthread_cond_wait(&team->woken, &team->mutex);
            pthread_mutex_unlock(&team->mutex);
        }
        seen = atomic_load(&team->turn);
        if (atomic_load(&team->is_closing)) return NULL;
        team->work(team, member.id);
        meet(team);
    }
}

static void call_members(Team *team) {
    pthread_mutex_lock(&team->mutex);
    atomic_fetch_add(&team->turn, 1);
    pthread_cond_broadcast(&team->woken);
    pthread_mutex_unlock(&team->mutex);
}

/* Starts up to `count` - 1 threads; fewer if the system refuses them. */
static void start_members(Team *team, int count) {
    pthread_mutex_init(&team->mutex, NULL);
    pthread_cond_init(&team->woken, NULL);
    atomic_store(&team->arrived, 0);
    atomic_store(&team->turn, 0);
    team->process = getpid();
    team->count = 1;
    /* Members begin to work at the first call, when the count is final. */
    for (int id = 1; id < count && id < MAX_TEAM; id++) {
        Member *member = malloc(sizeof *member);
        if (!member) break;
        *member = (Member){team, id};
        if (pthread_create(&team->threads[id], NULL, member_loop, member)) {
            free(member);
            break;
        }
        team->count = id + 1;
    }
}

void run_team(Team *team, void *job) {
    if (team->count > 1 && team->process != getpid()) start_members(team, team->count);
    team->job = job;
    if (team->count > 1) call_members(team);
    team->work(team, 0);
    meet(team);
}

int open_team(Team *team, int count, void (*work)(Team *, int)) {
    memset(team, 0, sizeof *team);
    team->work = work;
    start_members(team, count);
    return team->count;
}

void close_team(Team *team) {
    if (team->process != getpid()) return; /* after fork() there is nobody to wait for */
    atomic_store(&team->is_closing, 1);
    if (team->count > 1) call_members(team);
    for (int id = 1; id < team->count; id++) pthread_join(team->threads[id], NULL);
}
