// engine: the kernel.
#ifndef TILEGEN_ENGINE_CUH
#define TILEGEN_ENGINE_CUH
#include "abi.h"
extern "C" __global__ void __launch_bounds__(ENGINE_THREADS, 1) tilegen_engine(const __grid_constant__ EngineParams p) {
    if (p.tables == 0) return;
}
#endif
