/* What is the same in every way of multiplying with packed weights: when one thread does, and what becomes of the
 * sums. Knows nothing of how they are made.
 */
#ifndef GLLM_LINEAR_H
#define GLLM_LINEAR_H

#include "tile.h"
#include "workspace.h"

#define SMALL (4L << 20) /* work that one thread is done with before another has woken: about 40 us */

/* A weight's byte takes as long as six rows' products with it, at 17 GB/s and 200 GFLOP/s a core. */
INLINE int is_small(long rows, long in, long out, int type) {
    return in * out * (rows + 6 * bytes_of(type)) < SMALL;
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
