declare module "node-ipc"
declare module "proper-lockfile"
declare module "fs-native-extensions"
