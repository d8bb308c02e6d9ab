/* Products with weights in GGUF's IQ4_XS. */

#include "step_blocks.h"

void multiply_iq4_xs(
    const Matrix *m, const Activations *x, int count, int begin, int end, float *target, int64_t stride, int add) {
    multiply_blocks(m, x, count, begin, end, IQ4_XS, target, stride, add);
}
