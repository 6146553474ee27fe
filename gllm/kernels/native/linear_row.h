#ifndef GLLM_LINEAR_ROW_H
#define GLLM_LINEAR_ROW_H

#include "linear.h"

/* x: [in], in three parts or rounded to one; weight: as gllm_linear_amx takes it. Returns 0, or 1 if memory is short. */
int multiply_row(const float *x, const void *weight, int type, int x_parts, long in, const Outputs *outputs);

#endif
