/* Products with float16 weights. */

#include "step_floats.h"

void multiply_fp16(
    const Matrix *m, const Activations *x, int count, int begin, int end, float *target, int64_t stride, int add) {
    multiply_floats(m, x->values, count, begin, end, F16, target, stride, add);
}
