/* Products with weights in GGUF's Q5_0. */

#include "step_blocks.h"

void multiply_q5_0(
    const Matrix *m, const Activations *x, int count, int begin, int end, float *target, int64_t stride, int add) {
    multiply_blocks(m, x, count, begin, end, Q5_0, target, stride, add);
}
