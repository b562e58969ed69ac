// From sums to output: y = act(float(acc) * (row_scale * scale) + bias) for integer sums and
// y = act(acc + bias) for fp32 ones, each step rounded to fp32.

// Calls finish(c, n) for the columns c.. of a row, 16 at a time; n < 16 in the last part.
template <class Finish>
inline void each_part(std::int64_t columns, const Finish& finish) {
  std::int64_t c = 0;
  for (; c + kLanes <= columns; c += kLanes) finish(c, kLanes);
  if (c < columns) finish(c, static_cast<int>(columns - c));
}

template <Activation ACTIVATION, bool BIAS>
struct FromInt32 {
  // The job by value: behind a reference every store of y could change it, and gcc reads all of its
  // fields again for each vector.
  static void run(const EpilogueFp32 job) {
    const std::int32_t* acc = job.acc;
    float* y = job.y;
    for (int r = 0; r < job.row_count; ++r, acc += job.acc_stride, y += job.y_stride) {
      const F16 row_scale = set_f(job.row_scale[r]);
      each_part(job.columns, [&](std::int64_t c, int n) {
        F16 part = mul(to_float(load_i(acc + c)), mul(row_scale, load_lanes(job.scale + c, n)));
        if constexpr (BIAS) part = add(part, load_lanes(job.bias + c, n));
        store_lanes(y + c, activate<ACTIVATION>(part), n);
      });
    }
  }
};

template <Activation ACTIVATION, bool BIAS>
struct FromFp32 {
  static void run(const EpilogueSums job) {
    const float* acc = job.acc;
    float* y = job.y;
    for (int r = 0; r < job.row_count; ++r, acc += job.acc_stride, y += job.y_stride) {
      each_part(job.columns, [&](std::int64_t c, int n) {
        F16 part = load_lanes(acc + c, n);
        if constexpr (BIAS) part = add(part, load_lanes(job.bias + c, n));
        store_lanes(y + c, activate<ACTIVATION>(part), n);
      });
    }
  }
};

template <template <Activation, bool> class Epilogue, Activation ACTIVATION, class Job>
inline void with_bias(const Job& job) {
  job.bias != nullptr ? Epilogue<ACTIVATION, true>::run(job)
                      : Epilogue<ACTIVATION, false>::run(job);
}

template <template <Activation, bool> class Epilogue, class Job>
inline void run_epilogue(const Job& job) {
  switch (job.activation) {
    case Activation::none:
      return with_bias<Epilogue, Activation::none>(job);
    case Activation::relu:
      return with_bias<Epilogue, Activation::relu>(job);
    case Activation::gelu:
      return with_bias<Epilogue, Activation::gelu>(job);
    case Activation::silu:
      return with_bias<Epilogue, Activation::silu>(job);
    case Activation::relu6:
      return with_bias<Epilogue, Activation::relu6>(job);
    case Activation::hardswish:
      return with_bias<Epilogue, Activation::hardswish>(job);
  }
}

void epilogue_fp32(const EpilogueFp32& job) { run_epilogue<FromInt32>(job); }
void epilogue_sums(const EpilogueSums& job) { run_epilogue<FromFp32>(job); }
