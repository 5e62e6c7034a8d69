#if defined(__x86_64__)
#define SRIGL_WIDTH 16
#define SRIGL_SET avx512
#define SRIGL_NAME "avx512"
#include "kernels_impl.h"

namespace srigl {
const Kernels& avx512_kernels() { return avx512::kKernels; }
}  // namespace srigl
#endif
