/* The operators that a program replays, declared once for those who define them and who calls them. */
#ifndef GLLM_OPERATORS_H
#define GLLM_OPERATORS_H

#include <stdint.h>

int gllm_linear(const float *, const void *, int, const float *, const float *, float *, long, long, long, int);
int gllm_linear_amx(const float *, const void *, int, const float *, const float *, float *, long, long, long, int);
int gllm_linear_amx_rounded(const float *, const void *, int, const float *, const float *, float *, long, long, long, int);
int gllm_attention(const float *, long, const void *, const void *, int, long, long, long, long, const int32_t *, long,
                   const int32_t *, const int32_t *, long, float, float *);
void gllm_rms_norm(float *, const float *, const float *, float, long, long, float *);
void gllm_norm_heads(float *, const float *, const float *, float, long, long, long, long);
void gllm_rotary_write(float *, const float *, const float *, void *, void *, int, const int64_t *, long, long, long, long,
                       long, int);
void gllm_silu_mul(const float *, long, long, float *);

#endif
