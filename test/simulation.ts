/**
 * What the tests of the conversation share: simulated processes, and peers that speak frame by frame.
 */
import { randomBytes } from "node:crypto"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { NodeContext } from "@effect/platform-node"
import { assert } from "@effect/vitest"
import { Context, Deferred, type Duration, Effect, Either, Exit, Fiber, Layer, Scope, TestClock } from "effect"
import { Endpoint } from "effect-single-instance/Endpoint"
import type { Instance } from "effect-single-instance/Instance"
import { InstanceId } from "effect-single-instance/InstanceId"
import { InstanceLock } from "effect-single-instance/InstanceLock"
import { InstanceRecord } from "effect-single-instance/InstanceRecord"
import * as MemoryLock from "effect-single-instance/lock/MemoryLock"
import * as Message from "effect-single-instance/Message"
import { PidVerifier } from "effect-single-instance/PidVerifier"
import { type Connection, type Listener, Protocol } from "effect-single-instance/Protocol"
import * as TestPidVerifier from "effect-single-instance/pid/TestPidVerifier"
import * as NamedPipe from "effect-single-instance/protocol/NamedPipe"
import * as UnixSocket from "effect-single-instance/protocol/UnixSocket"
import type { TagClass } from "effect-single-instance/SingleInstance"
import * as SingleInstance from "effect-single-instance/SingleInstance"
import * as SingleInstanceConfig from "effect-single-instance/SingleInstanceConfig"
import { ProtocolError } from "effect-single-instance/SingleInstanceError"
import { layerMachine, TestMachine } from "effect-single-instance/TestSingleInstance"

/** Lets every fiber go as far as it can without the clock. */
export const settle: Effect.Effect<void> = Effect.asVoid(Effect.repeatN(Effect.yieldNow(), 500))

/** Lets everything happen, then this much time pass, then everything that follows. */
export const elapse = (duration: Duration.DurationInput): Effect.Effect<void> =>
  settle.pipe(Effect.zipRight(TestClock.adjust(duration)), Effect.zipRight(settle))

/** Lets so many seconds pass, one after the other. */
export const pass = (seconds: number): Effect.Effect<void> =>
  Effect.asVoid(Effect.repeatN(elapse("1 seconds"), seconds - 1))

export const isDone = <A, E>(fiber: Fiber.RuntimeFiber<A, E>): Effect.Effect<boolean> =>
  Effect.map(Fiber.poll(fiber), (exit) => exit._tag === "Some")

/** The failure of an exit; anything else fails the test. */
export const failureOf = <A, E>(exit: Exit.Exit<A, E>): E =>
  Exit.match(exit, {
    onSuccess: (value) => assert.fail(`succeeded with ${JSON.stringify(value)}`),
    onFailure: (cause) => (cause._tag === "Fail" ? cause.error : assert.fail(String(cause)))
  })

/** The value of an exit; anything else fails the test. */
export const valueOf = <A, E>(exit: Exit.Exit<A, E>): A => Exit.getOrElse(exit, (cause) => assert.fail(String(cause)))

export interface Member<Self, Request, Reply, Failure, Broadcast = never> {
  readonly instance: Instance<Request, Reply, Failure, Broadcast>
  /** To run a program as this process. */
  readonly context: Context.Context<Self>
  readonly pid: number
  readonly crash: Effect.Effect<void>
  readonly freeze: Effect.Effect<void>
  readonly thaw: Effect.Effect<void>
}

/** Options of one process; `protocols` makes those that it is given of the world's own. */
export interface MemberOptions extends SingleInstanceConfig.ConfigOptions {
  readonly protocols?: (own: Protocol["Type"]) => ReadonlyArray<Layer.Layer<Protocol, ProtocolError>>
}

/** A simulated process in memory. It crashes with the scope. */
export const member = <Self, Id extends string, Request, Reply, Failure, Broadcast>(
  tag: TagClass<Self, Id, Request, Reply, Failure, Broadcast>,
  options: MemberOptions = {}
): Effect.Effect<Member<Self, Request, Reply, Failure, Broadcast>, never, TestMachine | Scope.Scope> =>
  Effect.gen(function* () {
    const { protocols, ...config } = options
    const { config: shared, network, store, table } = yield* TestMachine
    const simulated = yield* table.spawn()
    const host = yield* network.host
    const [protocol, ...fallback] = protocols?.(host.protocol) ?? [Layer.succeed(Protocol, host.protocol)]
    const layer = tag.layerWithoutDependencies as (options: object) => Layer.Layer<Self, never, any>
    const context: Context.Context<any> = yield* Layer.build(
      layer({ protocol, fallback: fallback.length === 0 ? "none" : fallback, id: tag.key }).pipe(
        Layer.provide(MemoryLock.layer),
        Layer.provide(
          Layer.mergeAll(
            Layer.succeed(MemoryLock.MemoryStore, store),
            Layer.succeed(PidVerifier, simulated.verifier),
            Layer.succeed(
              SingleInstanceConfig.SingleInstanceConfig,
              SingleInstanceConfig.make({ ...(shared as object), ...config })
            )
          )
        )
      ) as Layer.Layer<Self>
    )
    const crash = Effect.all([simulated.crash, host.kill, Effect.sync(store.wake)], { discard: true })
    yield* Effect.addFinalizer(() => crash)
    return {
      instance: Context.get(context, tag) as Instance<Request, Reply, Failure, Broadcast>,
      context,
      pid: simulated.identity.pid,
      crash,
      freeze: Effect.zipRight(simulated.freeze, host.freeze),
      thaw: Effect.zipRight(simulated.thaw, host.thaw)
    }
  })

/** One end of a connection, message by message. */
export class Peer {
  private readonly inbox: Array<Uint8Array> = []

  constructor(readonly connection: Connection) {}

  /** Sends a message, or any bytes or JSON value in its place. */
  readonly say = (
    message: Message.Message | Uint8Array | { readonly _tag: string }
  ): Effect.Effect<void, ProtocolError> =>
    this.connection.send(message instanceof Uint8Array ? message : Message.encode(message as Message.Message))

  /** The next message. */
  readonly hear: Effect.Effect<Message.Message | Message.Unrecognised, ProtocolError> = Effect.suspend(() => {
    const frame = this.inbox.shift()
    if (frame === undefined) {
      return Effect.zipRight(
        Effect.map(this.connection.receive, (frames) => {
          this.inbox.push(...frames)
        }),
        this.hear
      )
    }
    return Effect.succeed(Either.getOrElse(Message.decode(frame), (detail) => assert.fail(detail)))
  })

  /** The next message, which must be of this kind. */
  readonly expect = <T extends Message.Message["_tag"]>(
    tag: T
  ): Effect.Effect<Extract<Message.Message, { readonly _tag: T }>, ProtocolError> =>
    Effect.map(this.hear, (message) => {
      assert.strictEqual(message._tag, tag, JSON.stringify(message))
      return message as Extract<Message.Message, { readonly _tag: T }>
    })

  /** Hears all that comes until the connection ends. */
  readonly rest: Effect.Effect<ReadonlyArray<Message.Message | Message.Unrecognised>> = Effect.gen(this, function* () {
    const all: Array<Message.Message | Message.Unrecognised> = []
    while (true) {
      const next = yield* Effect.either(this.hear)
      if (Either.isLeft(next)) return all
      all.push(next.right)
    }
  })

  /** Lets everything happen, then what has come by now. */
  readonly heard: Effect.Effect<ReadonlyArray<Message.Message | Message.Unrecognised>> = Effect.gen(this, function* () {
    const all: Array<Message.Message | Message.Unrecognised> = []
    while (true) {
      yield* settle
      const next = yield* Effect.fork(this.hear)
      yield* settle
      if (!(yield* isDone(next))) {
        yield* Fiber.interrupt(next)
        return all
      }
      const exit = yield* Fiber.await(next)
      if (Exit.isFailure(exit)) return all
      all.push(exit.value)
    }
  })
}

const randomHex = (bytes: number) => randomBytes(bytes).toString("hex")

/** The record of an instance, which must have one. */
export const recordOf = (id: string): Effect.Effect<InstanceRecord, never, TestMachine> =>
  Effect.map(TestMachine, ({ store }) => store.get(id) ?? assert.fail(`"${id}" has no record`))

/** What a secondary's hello is made of, for tests that change it. */
export interface HelloOptions {
  readonly key?: string
  readonly wire?: readonly [number, number]
  readonly id?: string
  readonly address?: string
  readonly maxFrameBytes?: number
  readonly encoding?: Message.Encoding
}

/** A connection to the primary of an instance, before the hello. */
export const stranger = (id: string): Effect.Effect<Peer, ProtocolError, TestMachine | Scope.Scope> =>
  Effect.gen(function* () {
    const { network } = yield* TestMachine
    const record = yield* recordOf(id)
    const host = yield* network.host
    const place = { id: InstanceId.make(id), directory: null, maxFrameBytes: 64 * 1024 * 1024 }
    const connection = yield* host.protocol.connect(record.endpoints[0]!.address, place)
    yield* connection.trust
    return new Peer(connection)
  })

/** Says hello and proves itself, where that is asked for, with what was changed. Answers the greeting. */
export const greet = (
  peer: Peer,
  record: InstanceRecord,
  id: string,
  options: HelloOptions = {}
): Effect.Effect<Message.Message, ProtocolError> =>
  Effect.gen(function* () {
    const wire = options.wire ?? Message.wire
    const nonce = randomHex(16)
    const { encoding, maxFrameBytes } = options
    const client = { pid: 4711, version: "1.0", ...(maxFrameBytes === undefined ? undefined : { maxFrameBytes }) }
    const isVouched = peer.connection.vouched === true
    yield* peer.say({
      _tag: "Hello",
      wire,
      id: options.id ?? id,
      nonce,
      ...(encoding === undefined ? undefined : { encoding }),
      ...(isVouched ? { client, primary: record.nonce } : undefined)
    })
    const welcome = yield* peer.hear
    assert(welcome._tag !== "Unrecognised")
    if (welcome._tag !== "Welcome") return welcome
    const transcript: Message.Transcript = {
      recordNonce: record.nonce,
      clientNonce: nonce,
      serverNonce: welcome.nonce,
      clientWire: wire,
      serverWire: welcome.range,
      address: options.address ?? record.endpoints[0]!.address
    }
    if (options.key === undefined && options.address === undefined) {
      assert.strictEqual(welcome.mac, Message.mac(record.key, "server", transcript))
    }
    if (isVouched) return welcome
    yield* peer.say({ _tag: "Proof", mac: Message.mac(options.key ?? record.key, "client", transcript), ...client })
    return welcome
  })

/** A connection to the primary of an instance, after the hello. */
export const secondary = (
  id: string,
  options?: HelloOptions
): Effect.Effect<Peer, ProtocolError, TestMachine | Scope.Scope> =>
  Effect.gen(function* () {
    const peer = yield* stranger(id)
    const welcome = yield* greet(peer, yield* recordOf(id), id, options)
    assert.strictEqual(welcome._tag, "Welcome")
    return peer
  })

/** A process that holds the lock of an instance and speaks as the test has it speak. */
export interface Puppet extends Speaker {
  readonly pid: number
  readonly crash: Effect.Effect<void>
  readonly freeze: Effect.Effect<void>
}

/** A listener that speaks as the test has it speak. */
export interface Speaker {
  readonly record: InstanceRecord
  readonly listener: Listener
  /** The next connection, before the hello. */
  readonly accept: Effect.Effect<Peer, ProtocolError, Scope.Scope>
  /** The greeting for a hello, with what is changed. */
  readonly welcome: (
    hello: typeof Message.Hello.Type,
    changes?: Partial<typeof Message.Welcome.Type>
  ) => typeof Message.Welcome.Type
  /** The next connection, after the hello. */
  readonly serve: (changes?: Partial<typeof Message.Welcome.Type>) => Effect.Effect<Peer, ProtocolError, Scope.Scope>
}

export const puppet = (
  id: string,
  endpoints?: (own: Endpoint) => ReadonlyArray<Endpoint>
): Effect.Effect<Puppet, ProtocolError, TestMachine | Scope.Scope> =>
  Effect.gen(function* () {
    const { network, store, table } = yield* TestMachine
    const simulated = yield* table.spawn()
    const host = yield* network.host
    const nonce = randomHex(16)
    const limits = { maxFrameBytes: 64 * 1024 * 1024, maxConnections: 100 }
    const listener = yield* host.protocol.listen({ id: InstanceId.make(id), directory: null, nonce, ...limits })
    const own = new Endpoint({ protocol: "memory", address: listener.address, wire: Message.wire })
    const record = new InstanceRecord({
      nonce,
      epoch: 1,
      released: false,
      process: simulated.identity,
      host: "memory",
      uid: null,
      version: null,
      argv0: "puppet",
      startedAt: 0,
      sequence: 0,
      witness: null,
      key: randomHex(32),
      endpoints: endpoints?.(own) ?? [own]
    })
    store.set(id, record)
    const crash = Effect.all([simulated.crash, host.kill, Effect.sync(store.wake)], { discard: true })
    yield* Effect.addFinalizer(() => crash)
    return {
      ...speaker(record, listener),
      pid: simulated.identity.pid,
      crash,
      freeze: Effect.zipRight(simulated.freeze, host.freeze)
    }
  })

const speaker = (record: InstanceRecord, listener: Listener): Speaker => {
  const accept = Effect.map(listener.accept, (connection) => new Peer(connection))
  const welcome: Speaker["welcome"] = (hello, changes) => {
    const serverNonce = randomHex(16)
    const transcript: Message.Transcript = {
      recordNonce: record.nonce,
      clientNonce: hello.nonce,
      serverNonce,
      clientWire: hello.wire,
      serverWire: changes?.range ?? Message.wire,
      address: listener.address
    }
    return {
      _tag: "Welcome",
      wire: 1,
      range: Message.wire,
      nonce: serverNonce,
      mac: Message.mac(record.key, "server", transcript),
      pid: record.process.pid,
      version: null,
      epoch: record.epoch,
      maxInFlight: 256,
      maxFrameBytes: 16 * 1024 * 1024,
      ...changes
    }
  }
  return {
    record,
    listener,
    accept,
    welcome,
    serve: (changes) =>
      Effect.gen(function* () {
        const peer = yield* accept
        yield* peer.say(welcome(yield* peer.expect("Hello"), changes))
        if (peer.connection.vouched !== true) yield* peer.expect("Proof")
        yield* peer.connection.trust
        return peer
      })
  }
}

/** A directory of the test's own. */
export const temporary: Effect.Effect<string, never, Scope.Scope> = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "esi-instance-"))),
  // Windows removes no file that is open, and a primary that was interrupted may need a moment to close its own.
  (directory) => Effect.promise(() => fs.promises.rm(directory, { recursive: true, force: true, maxRetries: 20 }))
)

/** Where the members of one test meet. */
export interface World {
  readonly member: <Self, Id extends string, Request, Reply, Failure, Broadcast>(
    tag: TagClass<Self, Id, Request, Reply, Failure, Broadcast>,
    options?: MemberOptions
  ) => Effect.Effect<Member<Self, Request, Reply, Failure, Broadcast>, never, Scope.Scope>
  /** A process without an instance of its own, to speak frame by frame. */
  readonly outsider: Effect.Effect<Outsider, never, Scope.Scope>
}

export interface Outsider {
  readonly lock: InstanceLock["Type"]
  readonly protocol: Protocol["Type"]
}

const outsiderLimits = { maxFrameBytes: 64 * 1024 * 1024, maxConnections: 1_000 }

/** A connection of an outsider to the primary of an instance, before the hello. */
export const knock = (
  { lock, protocol }: Outsider,
  tag: string
): Effect.Effect<{ readonly peer: Peer; readonly record: InstanceRecord }, unknown, Scope.Scope> =>
  Effect.gen(function* () {
    const id = InstanceId.make(tag)
    const seen = yield* lock.inspect(id)
    assert(seen._tag === "Recorded", seen._tag)
    const { directory, record } = seen
    const connection = yield* protocol.connect(record.endpoints[0]!.address, { id, directory, ...outsiderLimits })
    yield* connection.trust
    return { peer: new Peer(connection), record }
  })

/** An outsider that holds the lock of an instance, and listens. */
export const pretender = ({ lock, protocol }: Outsider, tag: string): Effect.Effect<Speaker, unknown, Scope.Scope> =>
  Effect.gen(function* () {
    const id = InstanceId.make(tag)
    const opened = yield* Deferred.make<Listener>()
    const verdict = yield* lock.contend({
      id,
      version: null,
      listen: ({ directory, nonce }) =>
        Effect.map(
          Effect.tap(protocol.listen({ id, directory, nonce, ...outsiderLimits }), (listener) =>
            Deferred.succeed(opened, listener)
          ),
          ({ address }) => [new Endpoint({ protocol: protocol.name, address, wire: Message.wire })]
        )
    })
    assert(verdict._tag === "Leading", verdict._tag)
    return speaker(verdict.record, yield* Deferred.await(opened))
  })

/** Another process of this machine that holds the lock of an id in a directory, until it is released. */
export const rivalOf = Effect.fnUntraced(function* (id: string, directory: string) {
  const self = yield* Effect.flatMap(PidVerifier, (verifier) => verifier.self).pipe(
    Effect.provide(SingleInstance.layerPidVerifier),
    Effect.provide(NodeContext.layer)
  )
  const table = yield* TestPidVerifier.makeTable
  const { boot, machine, pidNamespace, timeNamespace } = self
  const other = yield* table.spawn({
    pid: 4_000_000_000,
    boot: boot!,
    machine: machine!,
    pidNamespace: pidNamespace!,
    timeNamespace: timeNamespace!
  })
  const lock = Context.get(
    yield* Layer.build(
      SingleInstance.layerLock.pipe(
        Layer.provide(
          Layer.merge(Layer.succeed(PidVerifier, other.verifier), SingleInstanceConfig.layer({ directory }))
        )
      )
    ),
    InstanceLock
  )
  const own = yield* Scope.make()
  const verdict = yield* Scope.extend(
    lock.contend({ id: InstanceId.make(id), version: "9", listen: () => Effect.succeed([]) }),
    own
  )
  assert(verdict._tag === "Leading")
  return { record: verdict.record, release: Scope.close(own, Exit.void) }
})

/** Simulated processes in memory; on the clock of the test. */
export const memoryWorld: Effect.Effect<World, never, Scope.Scope> = Effect.map(
  Layer.build(layerMachine()),
  (machine): World => ({
    member: (tag, options) => Effect.provide(member(tag, options), machine),
    outsider: Effect.gen(function* () {
      const { network, store, table } = Context.get(machine, TestMachine)
      const { verifier } = yield* table.spawn()
      const { protocol } = yield* network.host
      const own = Layer.merge(Layer.succeed(MemoryLock.MemoryStore, store), Layer.succeed(PidVerifier, verifier))
      return { protocol, lock: Context.get(yield* Layer.build(Layer.provide(MemoryLock.layer, own)), InstanceLock) }
    })
  })
)

/** The lock in real files and real sockets; only who is which process is simulated. On the real clock. */
export const fileWorld: Effect.Effect<World, never, Scope.Scope> = Effect.suspend(() =>
  realWorld(process.platform === "win32" ? NamedPipe.layer : UnixSocket.layer)
)

/** The same over another protocol. */
export const realWorld = Effect.fnUntraced(function* (
  transport: Layer.Layer<Protocol>
): Effect.fn.Return<World, never, Scope.Scope> {
  const directory = yield* temporary
  const table = yield* TestPidVerifier.makeTable
  const lockOf = (verifier: PidVerifier["Type"], options?: SingleInstanceConfig.ConfigOptions) =>
    Layer.provideMerge(
      SingleInstance.layerLock,
      Layer.merge(Layer.succeed(PidVerifier, verifier), SingleInstanceConfig.layer({ directory, ...options }))
    )
  return {
    member: <Self, Id extends string, Request, Reply, Failure, Broadcast>(
      tag: TagClass<Self, Id, Request, Reply, Failure, Broadcast>,
      { protocols, ...options }: MemberOptions = {}
    ) =>
      Effect.gen(function* () {
        const simulated = yield* table.spawn()
        const own = Context.get(yield* Layer.build(transport), Protocol)
        const [protocol, ...fallback] = protocols?.(own) ?? [transport]
        const layer = tag.layerWithoutDependencies as (options: object) => Layer.Layer<Self, never, any>
        const context: Context.Context<any> = yield* Layer.build(
          layer({ protocol, fallback: fallback.length === 0 ? "none" : fallback, id: tag.key }).pipe(
            Layer.provide(lockOf(simulated.verifier, options))
          ) as Layer.Layer<Self>
        )
        return {
          instance: Context.get(context, tag) as Instance<Request, Reply, Failure, Broadcast>,
          context,
          pid: simulated.identity.pid,
          crash: Effect.dieMessage("a real socket does not crash"),
          freeze: Effect.dieMessage("a real socket does not freeze"),
          thaw: Effect.void
        }
      }),
    outsider: Effect.gen(function* () {
      const { verifier } = yield* table.spawn()
      const protocol = Context.get(yield* Layer.build(transport), Protocol)
      return { protocol, lock: Context.get(yield* Layer.build(lockOf(verifier)), InstanceLock) }
    })
  }
})

/** Notes each frame that goes over the connections of a client, in both directions. */
export const spying = (frames: Array<Uint8Array>) => (own: Protocol["Type"]) => {
  const spy = (connection: Connection): Connection => ({
    ...connection,
    offer: undefined,
    send: (frame) =>
      Effect.zipRight(
        Effect.sync(() => frames.push(Buffer.from(frame))),
        connection.send(frame)
      ),
    receiveWith: undefined,
    receive: Effect.tap(connection.receive, (received) => Effect.sync(() => frames.push(...received)))
  })
  return [Layer.succeed(Protocol, { ...own, connect: (...given) => Effect.map(own.connect(...given), spy) })]
}

/**
 * Where a connection is cut: before or behind the frame of this number, in whatever direction it goes. `late`: the client
 * sees it cut, and yet what it just sent arrives some time later.
 */
export interface Cut {
  readonly at: number
  readonly side: "before" | "behind" | "late"
}

/** What went over a protocol. */
export interface Traffic {
  /** Frames of all its connections, as `> Request` and `< Exit`. */
  readonly frames: Array<string>
  cuts: number
}

/**
 * A protocol whose connections, as a client, are cut at given frames: all its connections' frames are counted together.
 */
export const cutting = (
  protocol: Protocol["Type"],
  cuts: ReadonlyArray<Cut>,
  traffic: Traffic,
  onCut: Effect.Effect<void> = Effect.void
): Protocol["Type"] => ({
  ...protocol,
  connect: (address, options) =>
    Effect.gen(function* () {
      const own = yield* Scope.make()
      let late = false
      yield* Effect.addFinalizer((exit) => (late ? Effect.void : Scope.close(own, exit)))
      const connection = yield* Scope.extend(protocol.connect(address, options), own)
      const inbox: Array<Uint8Array> = []
      let lost = false
      const ending = yield* Deferred.make<void>()
      const cutting = Deferred.await(ending)
      const gone = new ProtocolError({
        reason: "Disconnected",
        protocol: protocol.name,
        detail: "the test cut it",
        outcome: "Unknown"
      })
      const cut = Effect.suspend(() => {
        lost = true
        inbox.length = 0
        traffic.cuts++
        return Effect.zipRight(onCut, Scope.close(own, Exit.void))
      })
      const pass = <A>(direction: ">" | "<", frame: Uint8Array, effect: Effect.Effect<A, ProtocolError>) =>
        Effect.suspend(() => {
          if (lost) return Effect.fail(gone)
          const tag = Either.match(Message.decode(frame), { onLeft: () => "?", onRight: ({ _tag }) => _tag })
          const number = traffic.frames.push(`${direction} ${tag}`)
          const here = cuts.find(({ at }) => at === number)
          if (here === undefined) return effect
          if (here.side === "late" && direction === ">") {
            lost = true
            late = true
            traffic.cuts++
            return Deferred.succeed(ending, undefined).pipe(
              Effect.zipRight(Effect.sleep("100 millis")),
              Effect.zipRight(effect),
              Effect.ensuring(Scope.close(own, Exit.void)),
              Effect.forkDaemon,
              Effect.zipRight(Effect.fail(gone))
            )
          }
          return here.side === "before" ? Effect.zipRight(cut, Effect.fail(gone)) : Effect.zipLeft(effect, cut)
        })
      const receive: Connection["receive"] = Effect.suspend(() => {
        if (lost) return Effect.fail(gone)
        const frame = inbox.shift()
        if (frame !== undefined) return pass("<", frame, Effect.succeed([frame]))
        return Effect.zipRight(
          Effect.map(Effect.raceFirst(connection.receive, Effect.zipRight(cutting, Effect.fail(gone))), (frames) => {
            inbox.push(...frames)
          }),
          receive
        )
      })
      return {
        ...connection,
        offer: undefined,
        receiveWith: undefined,
        send: (frame) => pass(">", frame, connection.send(frame)),
        receive
      }
    })
})
