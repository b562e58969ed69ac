// From sums to output: y = act(float(acc) * (row_scale * scale) + bias + residual) for integer sums
// and y = act(acc + bias + residual) for fp32 ones, each step rounded to fp32.

inline I16 load_sums(const std::int32_t* p, int) { return load_i(p); }
inline F16 load_sums(const float* p, int n) { return load_lanes(p, n); }

// Calls finish(c, n, sums) for the columns c.. of a row, 16 at a time; n < 16 in the last part.
// Always inline: behind a reference to `finish` its pointers would be read again for each vector.
template <class Sum, class Finish>
[[gnu::always_inline]] inline void each_part(const Sum* acc, std::int64_t columns,
                                             const Finish& finish) {
  std::int64_t c = 0;
  for (; c + kLanes <= columns; c += kLanes) finish(c, kLanes, load_sums(acc + c, kLanes));
  if (c < columns) {
    const int rest = static_cast<int>(columns - c);
    finish(c, rest, load_sums(acc + c, rest));
  }
}

// Likewise where the weight has an order of its own: 64 sums are loaded, 16 at a time picked.
template <class Sum, class Finish>
[[gnu::always_inline]] inline void each_part(const Sum* acc, const std::int32_t* places,
                                             std::int64_t columns, const Finish& finish) {
  if (places == nullptr) return each_part(acc, columns, finish);
  std::int64_t c = 0;
  for (; c + kOrderBlock <= columns; c += kOrderBlock) {
    const auto block = load_block(acc + c, kOrderBlock / kLanes);
#pragma GCC unroll 4
    for (int at = 0; at < kOrderBlock; at += kLanes) {
      finish(c + at, kLanes, pick(block, load_places(places + c + at, kLanes)));
    }
  }
  const int rest = static_cast<int>(columns - c);
  const auto block = load_block(acc + c, (rest + kLanes - 1) / kLanes);
  for (int at = 0; at < rest; at += kLanes) {
    const int n = rest - at < kLanes ? rest - at : kLanes;
    finish(c + at, n, pick(block, load_places(places + c + at, n)));
  }
}

// What is added to a sum before the activation. A residual is rare enough that its loop asks again
// and again whether there is a bias.
enum class Terms { none, bias, residual };

template <Terms TERMS, class Job>
[[gnu::always_inline]] inline F16 with_terms(F16 part, const Job& job, const float* residual,
                                             std::int64_t c, int n) {
  const bool biased = TERMS == Terms::bias || (TERMS == Terms::residual && job.bias != nullptr);
  if (biased) part = add(part, load_lanes(job.bias + c, n));
  if constexpr (TERMS == Terms::residual) part = add(part, load_lanes(residual + c, n));
  return part;
}

template <Activation ACTIVATION, Terms TERMS>
struct FromInt32 {
  // The job by value: behind a reference every store of y could change it, and gcc reads all of its
  // fields again for each vector.
  static void run(const EpilogueFp32 job) {
    const std::int32_t* acc = job.acc;
    const float* residual = job.residual;
    float* y = job.y;
    for (int r = 0; r < job.row_count; ++r, acc += job.acc_stride, y += job.y_stride) {
      const F16 row_scale = set_f(job.row_scale[r]);
      each_part(acc, job.places, job.columns, [&](std::int64_t c, int n, const I16& sums) {
        F16 part = mul(to_float(sums), mul(row_scale, load_lanes(job.scale + c, n)));
        part = with_terms<TERMS>(part, job, residual, c, n);
        store_lanes(y + c, activate<ACTIVATION>(part), n);
      });
      if constexpr (TERMS == Terms::residual) residual += job.residual_stride;
    }
  }
};

template <Activation ACTIVATION, Terms TERMS>
struct FromFp32 {
  static void run(const EpilogueSums job) {
    const float* acc = job.acc;
    const float* residual = job.residual;
    float* y = job.y;
    for (int r = 0; r < job.row_count; ++r, acc += job.acc_stride, y += job.y_stride) {
      each_part(acc, job.places, job.columns, [&](std::int64_t c, int n, F16 part) {
        part = with_terms<TERMS>(part, job, residual, c, n);
        store_lanes(y + c, activate<ACTIVATION>(part), n);
      });
      if constexpr (TERMS == Terms::residual) residual += job.residual_stride;
    }
  }
};

template <template <Activation, Terms> class Epilogue, Activation ACTIVATION, class Job>
inline void run_epilogue_with(const Job& job) {
  if (job.residual != nullptr) return Epilogue<ACTIVATION, Terms::residual>::run(job);
  job.bias != nullptr ? Epilogue<ACTIVATION, Terms::bias>::run(job)
                      : Epilogue<ACTIVATION, Terms::none>::run(job);
}

template <template <Activation, Terms> class Epilogue, class Job>
inline void run_epilogue(const Job& job) {
  switch (job.activation) {
    case Activation::none:
      return run_epilogue_with<Epilogue, Activation::none>(job);
    case Activation::relu:
      return run_epilogue_with<Epilogue, Activation::relu>(job);
    case Activation::gelu:
      return run_epilogue_with<Epilogue, Activation::gelu>(job);
    case Activation::silu:
      return run_epilogue_with<Epilogue, Activation::silu>(job);
    case Activation::relu6:
      return run_epilogue_with<Epilogue, Activation::relu6>(job);
    case Activation::hardswish:
      return run_epilogue_with<Epilogue, Activation::hardswish>(job);
  }
}

void epilogue_fp32(const EpilogueFp32& job) { run_epilogue<FromInt32>(job); }
void epilogue_sums(const EpilogueSums& job) { run_epilogue<FromFp32>(job); }
