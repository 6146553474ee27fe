/* What is the same in every way of multiplying with packed weights: when one thread does, memory to work in, and what
 * becomes of the sums. Knows nothing of how they are made.
 */
#ifndef GLLM_LINEAR_H
#define GLLM_LINEAR_H

#include <stdlib.h>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "tile.h"

#define SMALL (4L << 20) /* work that one thread is done with before another has woken: about 40 us */
#define LARGE_PAGE (2UL << 20)

/* A weight's byte takes as long as six rows' products with it, at 17 GB/s and 200 GFLOP/s a core. */
INLINE int is_small(long rows, long in, long out, int type) {
    return in * out * (rows + 6 * bytes_of(type)) < SMALL;
}

typedef struct {
    void *memory;
    size_t size;
} Workspace;

/* At least `size` bytes, in large pages where the system has them; none if memory is short. */
static inline void *reserve(Workspace *space, size_t size) {
    if (size > space->size) {
        const size_t rounded = (size + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
        free(space->memory);
        space->memory = aligned_alloc(LARGE_PAGE, rounded);
        space->size = space->memory ? rounded : 0;
#ifdef MADV_HUGEPAGE
        if (space->memory) madvise(space->memory, rounded, MADV_HUGEPAGE);
#endif
    }
    return space->memory;
}

/* Where the sums of a panel go: times `scale`, plus `bias`, each [panels * PANEL] or none; gated: silu of
 * the panel's first half times its second. */
typedef struct {
    const float *bias, *scale;
    float *y; /* [rows, y_step] */
    long out, y_step;
    int is_gated;
} Outputs;

/* sums: [end - start][PANEL], changed. */
static inline void finish(const Outputs *outputs, long panel, long start, long end, float *sums) {
    const long first = panel * PANEL;
    for (long row = 0; row < end - start; row++) {
        float *made = sums + row * PANEL, *y = outputs->y + (start + row) * outputs->y_step;
        vec halves[2];
        for (int half = 0; half < 2; half++) {
            const long o = first + half * LANES;
            halves[half] = load(made + half * LANES);
            if (outputs->scale) halves[half] *= load(outputs->scale + o);
            if (outputs->bias) halves[half] += load(outputs->bias + o);
        }
        if (outputs->is_gated) {
            const vec x = halves[0] / (1.0f + exponential(-halves[0])) * halves[1];
            const long o = panel * LANES, left = outputs->out / 2 - o;
            memcpy(y + o, &x, 4 * (left < LANES ? left : LANES));
        } else {
            const long left = outputs->out - first;
            memcpy(y + first, halves, 4 * (left < PANEL ? left : PANEL));
        }
    }
}

#endif
