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

/* Where a row's outputs of a panel begin. */
INLINE float *address_of(const Outputs *outputs, long panel, long row) {
    return outputs->y + row * outputs->y_step + panel * (outputs->is_gated ? LANES : PANEL);
}

INLINE void finish_as(int is_gated, const Outputs *outputs, long panel, long start, long end, const float *sums) {
    const long width = is_gated ? LANES : PANEL;
    const long left = (is_gated ? outputs->out / 2 : outputs->out) - panel * width;
    float *y = address_of(outputs, panel, start);
    vec scale[2], bias[2]; /* what changes nothing, where there is none */
    for (int half = 0; half < 2; half++) {
        const long at = panel * PANEL + half * LANES;
        scale[half] = outputs->scale ? load(outputs->scale + at) : all(1.0f);
        bias[half] = outputs->bias ? load(outputs->bias + at) : all(-0.0f);
    }
    for (long row = start; row < end; row++, sums += PANEL, y += outputs->y_step) {
        vec made[2] = {load(sums) * scale[0] + bias[0], load(sums + LANES) * scale[1] + bias[1]};
        if (is_gated) made[0] = made[0] / (1.0f + exponential(-made[0])) * made[1];
        if (left >= width) {
            store(y, made[0]);
            if (!is_gated) store(y + LANES, made[1]);
        } else
            memcpy(y, made, 4 * left);
    }
}

/* sums: [end - start][PANEL]. */
INLINE void finish(const Outputs *outputs, long panel, long start, long end, const float *sums) {
    if (outputs->is_gated)
        finish_as(1, outputs, panel, start, end, sums);
    else
        finish_as(0, outputs, panel, start, end, sums);
}

#endif
