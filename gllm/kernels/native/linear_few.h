#ifndef GLLM_LINEAR_FEW_H
#define GLLM_LINEAR_FEW_H

#include "coded.h"
#include "linear.h"

/* As gllm_linear_amx, of up to TILE_ROWS rows. */
int multiply_few(const float *x, const Weight *weight, int type, int x_parts, long rows, long in, const Outputs *outputs);

#endif
